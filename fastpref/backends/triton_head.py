"""The linear head in Triton kernels: statistics with no logit in memory, gradients by chunks of the vocabulary that feed two GEMMs.

A gradient of a chunk's logits is made again from hidden states and head (or from what the statistics kept), stored once in the operands'
dtype, and read by ``dX += G W`` and ``dW = G.T X``. A power of two near each row's coefficient is divided out of ``G`` and multiplied to dX and
to the hidden states instead, exactly: ``G`` is at most about 1, so float16 does not underflow and nothing of size T x V is scaled. dX
is summed in float32; dW is one product over all rows where one block holds them. Nothing waits for the GPU.

Operands are float32, bfloat16 and float16 in any combination. Two 16-bit ones of one dtype use tensor cores throughout; float32
logits of any other pair are made without rounding the operands, which no tensor core does.

Limits: rows that are ignored or have no coefficient are not read, but take their place in the GEMMs. A ``gradient_filter`` leaves nothing out:
it is a permission, and which blocks it covers is not known without waiting for the GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastpref.kernels.linear_grad import kept_grad, kept_row_tiles, linear_grad, row_tiles
from fastpref.kernels.linear_stats import kept_layout, linear_stats
from fastpref.kernels.scale_rows import scale_rows

from ..scratch import take
from .base import LogitTransform, RowState
from .cpu_head import HeadTiling
from .triton import _options as kernel_transform
from .triton_costs import STRIDE, TritonHeadCosts

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TritonHead:
    """Statistics and gradients of a whole linear head (see :class:`fastpref.backends.head_engine.HeadEngine`)."""

    def why_not(self, hidden: torch.dtype, weight: torch.dtype) -> str | None:
        """``None`` if operands of these dtypes are taken, else the reason."""
        if hidden not in DTYPES or weight not in DTYPES:
            return f"operands are float32, bfloat16 or float16, found {hidden} and {weight}"
        return None

    def costs(self, hidden: torch.dtype, weight: torch.dtype) -> TritonHeadCosts:
        """What operands of these dtypes take."""
        return TritonHeadCosts(hidden, weight)

    def kept_bytes(
        self, hidden: torch.dtype, weight: torch.dtype, transform: LogitTransform, rows: int, vocab: int
    ) -> int:
        """What is kept of the logits of some rows."""
        return self.costs(hidden, weight).kept_bytes(rows, vocab, softcap=transform.softcap is not None)

    def unseen_flops(self, shape: tuple[int, int, int], again: int, products: int, left_out: int) -> int:
        """The logits that were made again; dX and dW are torch's own products."""
        return 2 * again * shape[1] * shape[2]

    def statistics(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        state: RowState,
        transform: LogitTransform,
        *,
        kept: Tensor | None = None,
        kept_rows: int = 0,
    ) -> None:
        """Fold all V columns into ``state``, as ``row_stats`` does with some.

        Args:
            hidden: ``[T, H]``.
            weight: ``[V, H]``.
            bias: ``[V]`` or ``None``.
            targets: ``[T]``; rows with a negative one are left as they are.
            state: of the T rows.
            transform: of the logits.
            kept: gets what is kept of the logits of all T rows; bytes, as many as :meth:`kept_bytes` says.
            kept_rows: T, or 0 without ``kept``.
        """
        if kept is not None and kept_rows != hidden.shape[0]:
            raise ValueError(f"kept_rows: expected all {hidden.shape[0]} rows, found {kept_rows}")
        views = None if kept is None else _kept_views(hidden, weight, transform, kept, kept_rows)
        bias = None if bias is None else bias.contiguous()
        linear_stats(hidden, weight, bias, targets, **vars(state), kept=views, **kernel_transform(transform))

    def gradients(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        lse: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        transform: LogitTransform,
        tiling: HeadTiling,
        *,
        dx: Tensor | None,
        dw: Tensor | None,
        db: Tensor | None,
        add_to_dw: bool = False,
        kept: Tensor | None = None,
        kept_rows: int = 0,
        logps: Tensor | None = None,
        gradient_filter: float = 0.0,
    ) -> int:
        """The gradients of all V columns, as ``row_grad`` defines them for each logit.

        Args:
            hidden: ``[T, H]``.
            weight: ``[V, H]``.
            bias: ``[V]`` or ``None``.
            targets: ``[T]``.
            lse: ``[T]`` float32.
            onehot_coef: ``[T]`` float32, see ``Backend.row_grad``.
            softmax_coef: ``[T]`` float32.
            transform: of the logits.
            tiling: columns of a chunk, and rows of a product.
            dx: ``[T, H]`` contiguous, overwritten; ``None`` if not needed.
            dw: ``[V, H]``, overwritten or added to; ``None`` if not needed.
            db: ``[V]`` float32, added to; ``None`` if not needed.
            add_to_dw: add to what ``dw`` holds.
            kept: what :meth:`statistics` kept of the first ``kept_rows`` rows.
            kept_rows: how many.
            logps: ``[T]`` float32, with ``kept``.
            gradient_filter: leaves nothing out.

        Returns:
            0, the blocks that were left out.
        """
        costs, device = self.costs(hidden.dtype, weight.dtype), hidden.device
        rows, vocab = hidden.shape[0], weight.shape[0]
        onehot, softmax, factor = normalised_coefficients(onehot_coef, softmax_coef, targets, transform)
        # What the rows' factors have in common would underflow in float16 hidden states.
        common = factor.amax().clamp_min(torch.finfo(torch.float32).tiny) if costs.operand == torch.float16 else None
        chunk = _GradientChunk(
            hidden,
            None if bias is None else bias.contiguous(),
            (targets, lse.float().contiguous(), onehot, softmax, factor),
            transform,
            None if kept is None else (*_kept_views(hidden, weight, transform, kept, kept_rows), logps),
        )
        columns, block = min(tiling.chunk, vocab), min(tiling.row_block, rows)
        stride = -(-columns // STRIDE) * STRIDE
        buffer = take(block * stride, costs.operand, device).view(block, stride)
        sums = None
        if dx is not None:
            sums = dx if dx.dtype == torch.float32 else take(dx.numel(), torch.float32, device).view(dx.shape)
        x = None
        if dw is not None:
            x = take(hidden.numel(), costs.operand, device).view(hidden.shape)
            scale_rows(hidden, factor if common is None else factor / common, x)
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
                chunk.write(w, (first, last), part, grad, None if db is None else db[first:last])
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
            scale_rows(sums, factor, dx)
        return 0


class _GradientChunk:
    """Writes chunks of logit gradients, whether their logits are kept or made again."""

    def __init__(
        self,
        hidden: Tensor,
        bias: Tensor | None,
        per_row: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
        transform: LogitTransform,
        kept: tuple[Tensor, Tensor | None, Tensor | None] | None,
    ) -> None:
        self._hidden, self._bias, self._per_row, self._transform, self._kept = hidden, bias, per_row, transform, kept

    def write(self, weight: Tensor, columns: tuple[int, int], rows: slice, out: Tensor, db: Tensor | None) -> None:
        """``out [rows, columns]``; their column sums, with the factors, are added to ``db``."""
        known = 0 if self._kept is None else min(max(self._kept[0].shape[0] - rows.start, 0), out.shape[0])
        middle = rows.start + known
        if self._kept is not None and known:
            values, references, logps = self._kept
            held = slice(rows.start, middle)
            views = (values[held], None if references is None else references[held])
            targets, lse, onehot, softmax, options = self._options(held, columns, db, kept_row_tiles(known))
            if logps is None:
                raise ValueError("logps: expected those of the kept rows, found None")
            kept_grad(views, targets, lse, logps[held], onehot, softmax, out[:known], **options)
            _add_sums(options["db"], db)
        if middle < rows.stop:
            again = slice(middle, rows.stop)
            x = self._hidden[again]
            targets, lse, onehot, softmax, options = self._options(again, columns, db, row_tiles(x, weight))
            bias = None if self._bias is None else self._bias[columns[0] : columns[1]]
            linear_grad(x, weight, bias, targets, lse, onehot, softmax, out[known:], **options)
            _add_sums(options["db"], db)

    def _options(
        self, rows: slice, columns: tuple[int, int], db: Tensor | None, tiles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Targets, lse and coefficients of these rows, and what else both kernels take."""
        targets, lse, onehot, softmax, factor = (value[rows] for value in self._per_row)
        sums = None
        if db is not None:
            sums = torch.empty(tiles, columns[1] - columns[0], dtype=torch.float32, device=db.device)
        options = {"db": sums, "factor": factor, "col0": columns[0], **kernel_transform(self._transform.rows(rows))}
        return targets, lse, onehot, softmax, options


def _add_sums(partial: Tensor | None, db: Tensor | None) -> None:
    if partial is not None and db is not None:
        db += partial.sum(dim=0)


def _kept_views(
    hidden: Tensor, weight: Tensor, transform: LogitTransform, kept: Tensor, rows: int
) -> tuple[Tensor, Tensor | None]:
    return kept_layout(hidden.dtype, weight.dtype, weight.shape[0], transform.softcap is not None).views(kept, rows)


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
