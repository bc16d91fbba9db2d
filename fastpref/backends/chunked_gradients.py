"""Gradients of a linear head by chunks of the vocabulary: what the engines have in common whose logit gradients go through memory.

Each chunk's logit gradients are written once, in the operands' dtype, by the engine's own kernels (:class:`ChunkKernels`), and read by
``dX += G W`` and ``dW = G.T X``. A power of two near each row's coefficient is divided out of ``G`` and multiplied to dX and to the hidden
states instead, exactly: ``G`` is at most about 1, so float16 does not underflow and nothing of size T x V is scaled. dX is summed in
float32; dW is one product over all rows where one block holds them. Nothing waits for the GPU.

Limits: rows that are ignored or have no coefficient are not read, but take their place in the GEMMs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..scratch import take
from .base import LogitTransform
from .chunked_costs import STRIDE, ChunkedCosts
from .cpu_head import HeadTiling


@dataclass(frozen=True)
class RowGradients:
    """What a chunk's gradients take per row, each ``[T]``.

    Attributes:
        targets: int64, negative on ignored rows.
        lse: float32.
        onehot: float32, with the constant factor of dz/dx and without the row's ``factor``, as ``softmax``.
        softmax: float32.
        factor: float32, a power of two; 0 where a row has no gradient.
    """

    targets: Tensor
    lse: Tensor
    onehot: Tensor
    softmax: Tensor
    factor: Tensor

    @classmethod
    def of(
        cls, targets: Tensor, lse: Tensor, onehot_coef: Tensor, softmax_coef: Tensor, transform: LogitTransform
    ) -> RowGradients:
        """From what :meth:`HeadEngine.gradients` is given."""
        onehot, softmax, factor = normalised_coefficients(onehot_coef, softmax_coef, targets, transform)
        return cls(targets, lse.float().contiguous(), onehot, softmax, factor)

    def rows(self, block: slice) -> RowGradients:
        """Those of some of the rows."""
        return RowGradients(*(value[block] for value in vars(self).values()))


class ChunkKernels(Protocol):
    """The engine's own part."""

    def write(self, weight: Tensor, columns: tuple[int, int], rows: slice, out: Tensor, db: Tensor | None) -> None:
        """``out [rows, columns]``: the gradients of these logits without the rows' factors; their column sums with them are added to ``db``.

        ``weight`` holds the head's rows of these columns. Every row of a chunk is written before the next chunk is begun.
        """
        ...

    def scale_rows(self, x: Tensor, factor: Tensor, out: Tensor) -> None:
        """``out = x * factor[:, None]``, 0 where the factor is 0 whatever ``x`` holds; ``out`` may be ``x``."""
        ...


def chunked_gradients(
    kernels: ChunkKernels,
    costs: ChunkedCosts,
    hidden: Tensor,
    weight: Tensor,
    factor: Tensor,
    tiling: HeadTiling,
    *,
    dx: Tensor | None,
    dw: Tensor | None,
    db: Tensor | None,
    add_to_dw: bool,
) -> None:
    """The gradients of all V columns; see :meth:`fastpref.backends.head_engine.HeadEngine.gradients`.

    Args:
        kernels: write the gradients of a chunk's logits, and scale rows.
        costs: of the operands: what they are multiplied in, and what is staged.
        hidden: ``[T, H]``.
        weight: ``[V, H]``.
        factor: ``[T]`` of :class:`RowGradients`.
        tiling: columns of a chunk, and rows of a product.
        dx: ``[T, H]`` contiguous, overwritten; ``None`` if not needed.
        dw: ``[V, H]``, overwritten or added to; ``None`` if not needed.
        db: ``[V]`` float32, added to; ``None`` if not needed.
        add_to_dw: add to what ``dw`` holds.
    """
    device = hidden.device
    rows, vocab = hidden.shape[0], weight.shape[0]
    # What the rows' factors have in common would underflow in float16 hidden states.
    common = factor.amax().clamp_min(torch.finfo(torch.float32).tiny) if costs.operand == torch.float16 else None
    columns, block = min(tiling.chunk, vocab), min(tiling.row_block, rows)
    stride = -(-columns // STRIDE) * STRIDE
    buffer = take(block * stride, costs.operand, device).view(block, stride)
    sums = None
    if dx is not None:
        sums = dx if dx.dtype == torch.float32 else take(dx.numel(), torch.float32, device).view(dx.shape)
    x = None
    if dw is not None:
        x = take(hidden.numel(), costs.operand, device).view(hidden.shape)
        kernels.scale_rows(hidden, factor if common is None else factor / common, x)
    staged = dw is not None and costs.stages_dw(rows, tiling.row_block, dw.dtype == torch.float32)
    stage = take(columns * hidden.shape[1], torch.float32, device).view(columns, -1) if staged else None
    for first in range(0, vocab, columns):
        last = min(first + columns, vocab)
        # A CPU's bfloat16 GEMM reads the element after an odd number of columns, and multiplies it by 0.
        buffer[:, last - first :].zero_()
        w = weight[first:last]
        w_operand = w.to(costs.operand) if sums is not None else None
        into = None if dw is None else dw[first:last] if stage is None else stage[: last - first]
        for start in range(0, rows, block):
            part = slice(start, min(start + block, rows))
            grad = buffer[: part.stop - start, : last - first]
            kernels.write(w, (first, last), part, grad, None if db is None else db[first:last])
            if sums is not None and w_operand is not None:
                add_product(sums[part], grad, w_operand, fresh=first == 0)
            if into is not None and x is not None:
                add_product(into, grad.t(), x[part], fresh=start == 0 and not (add_to_dw and stage is None))
        if dw is not None and stage is not None and into is not None:
            if common is not None:
                into.mul_(common)
            if add_to_dw:
                dw[first:last].add_(into)
            else:
                dw[first:last].copy_(into)
    if dx is not None and sums is not None:
        kernels.scale_rows(sums, factor, dx)


def normalised_coefficients(
    onehot: Tensor, softmax: Tensor, targets: Tensor, transform: LogitTransform
) -> tuple[Tensor, Tensor, Tensor]:
    """``(onehot, softmax, factor)``, each ``[T]`` float32: the coefficients with the constant factor of dz/dx, divided by the power of two
    ``factor`` that brings the larger into [1/2, 1). ``factor`` is 0 where a row is ignored or both are 0."""
    slope = torch.full_like(onehot, transform.scale, dtype=torch.float32)
    if transform.inv_temperature is not None:
        slope = slope * transform.inv_temperature
    onehot, softmax = onehot * slope, softmax * slope
    largest = torch.maximum(onehot.abs(), softmax.abs()).masked_fill(targets < 0, 0.0)
    factor = torch.where(largest == 0, largest, largest / torch.frexp(largest).mantissa)
    divisor = torch.where(factor == 0, torch.ones_like(factor), factor)
    return onehot / divisor, softmax / divisor, factor


def add_product(out: Tensor, a: Tensor, b: Tensor, *, fresh: bool) -> None:
    """``out (+)= a @ b``, summed in float32 and rounded once to a 16-bit ``out``.

    A float32 ``out`` of 16-bit operands takes the sum unrounded where torch has such a GEMM (CUDA, from torch 2.8 on); elsewhere the product
    is rounded to their dtype on its way.
    """
    if out.dtype == a.dtype:
        if fresh:
            torch.mm(a, b, out=out)
        else:
            out.addmm_(a, b)
    elif a.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out"):
        if fresh:
            torch.mm(a, b, out_dtype=out.dtype, out=out)
        else:
            torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        product = take(a.shape[0] * b.shape[1], a.dtype, a.device).view(a.shape[0], b.shape[1])
        torch.mm(a, b, out=product)
        if fresh:
            out.copy_(product)
        else:
            out.add_(product)
