"""Device functions shared by the kernels of a linear head: a tile of logits ``hidden @ weight.T``, and which tile a program takes.

Operands of one 16-bit dtype go to the tensor cores as they are; a product of two of them is exact in float32, so the logits carry the
error of a float32 sum and no other. Any other pair is converted to float32 and multiplied without rounding (``input_precision="ieee"``).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiling import INTERPRETED


@triton.jit
def tile_of_program(row_tiles, column_tiles, GROUP: tl.constexpr):
    """``(row tile, column tile)`` of this program: all columns for ``GROUP`` tiles of rows, and these fastest.

    Programs that run side by side then share a tile of the head, and the group's hidden states stay in the L2 cache.
    """
    program = tl.program_id(0)
    per_group = GROUP * column_tiles
    first = (program // per_group) * GROUP
    count = tl.minimum(row_tiles - first, GROUP)
    place = program % per_group
    return first + place % count, place // count


@triton.jit
def tile_product(
    x_ptr,
    x_stride,
    row,
    live,
    w_ptr,
    w_stride,
    column,
    inside,
    width,
    EVEN: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``[ROWS, COLUMNS]`` float32 products of rows ``row`` of ``x`` and ``column`` of ``w``; 0 for rows that are not ``live``, which are
    not read, and columns that are not ``inside``. ``EVEN``: ``DEPTH`` divides ``width``."""
    h = tl.arange(0, DEPTH)
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * x_stride + h[None, :]
    w_ptrs = w_ptr + column.to(tl.int64)[None, :] * w_stride + h[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, DEPTH):
        if EVEN:
            x = tl.load(x_ptrs, mask=live[:, None], other=0.0)
            w = tl.load(w_ptrs, mask=inside[None, :], other=0.0)
        else:
            left = h < width - start
            x = tl.load(x_ptrs, mask=live[:, None] & left[None, :], other=0.0)
            w = tl.load(w_ptrs, mask=inside[None, :] & left[:, None], other=0.0)
        total = tl.dot(x.to(DTYPE), w.to(DTYPE), total, input_precision="ieee")
        x_ptrs += DEPTH
        w_ptrs += DEPTH
    return total


def is_narrow(hidden: Tensor, weight: Tensor) -> bool:
    """Whether both operands have the same 16-bit dtype."""
    return hidden.dtype == weight.dtype and hidden.dtype in (torch.bfloat16, torch.float16)


def product_dtype(hidden: Tensor, weight: Tensor) -> tl.dtype:
    """What the operands are multiplied in. Triton's interpreter multiplies the bit patterns of bfloat16: there it is float32, in which a product
    of two 16-bit numbers is exact."""
    if INTERPRETED or not is_narrow(hidden, weight):
        return tl.float32
    return tl.bfloat16 if hidden.dtype == torch.bfloat16 else tl.float16
