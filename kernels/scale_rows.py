"""Rows times a factor of their own, in another dtype or in place: the deferred half of a gradient's coefficients.

    out[r, h] = x[r, h] * factor[r]

Inputs    ``x [T, H]`` float32, bfloat16 or float16, contiguous rows at any row stride; ``factor [T]`` float32
Output    ``out [T, H]`` of any of these dtypes, contiguous rows at any row stride; may be ``x`` itself
Bytes     reads every element of a row whose factor is not 0 once and writes every element once. Rows with factor 0 are written as zeros
          and not read, whatever they hold
Values    the product is float32 and rounded once at the store; exact where the factor is a power of two and nothing underflows
Limits    ``T < 2^31``, ``H < 2^26`` (65535 blocks on grid axis y)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiling import warp_size

_BLOCK = 1024
_PER_THREAD = 8  # 16 bytes of a 16-bit dtype


@triton.jit
def _scale_rows(x_ptr, x_stride, factor_ptr, out_ptr, out_stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < width
    out_ptr += row * out_stride
    factor = tl.load(factor_ptr + row)
    if factor == 0.0:
        tl.store(out_ptr + h, tl.zeros((BLOCK,), out_ptr.dtype.element_ty), mask=inside)
        return
    x = tl.load(x_ptr + row * x_stride + h, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + h, (x * factor).to(out_ptr.dtype.element_ty), mask=inside)


def scale_rows(x: Tensor, factor: Tensor, out: Tensor) -> None:
    """Launch over all of ``x [T, H]``; writes ``out [T, H]``. See the top of this file."""
    rows, width = x.shape
    if rows == 0 or width == 0:
        return
    with torch.cuda.device_of(x):  # Triton launches on the current device
        num_warps = _BLOCK // (_PER_THREAD * warp_size())
        _scale_rows[(rows, triton.cdiv(width, _BLOCK))](
            x, x.stride(0), factor, out, out.stride(0), width, BLOCK=_BLOCK, num_warps=num_warps, enable_fp_fusion=True
        )
