"""The linear head in Triton kernels: statistics with no logit in memory, gradients by chunks of the vocabulary that feed two GEMMs.

A gradient of a chunk's logits is made again from hidden states and head (or from what the statistics kept), and stored once in the operands'
dtype for the products of :mod:`fastpref.backends.chunked_gradients`.

Operands are float32, bfloat16 and float16 in any combination. Two 16-bit ones of one dtype use tensor cores throughout; float32
logits of any other pair are made without rounding the operands, which no tensor core does.

Limits: rows that are ignored or have no coefficient are not read, but take their place in the GEMMs. A ``gradient_filter`` leaves nothing out:
it is a permission, and which blocks it covers is not known without waiting for the GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastpref.kernels.kept_layout import kept_layout
from fastpref.kernels.linear_grad import kept_grad, kept_row_tiles, linear_grad, row_tiles
from fastpref.kernels.linear_stats import linear_stats
from fastpref.kernels.scale_rows import scale_rows

from .base import LogitTransform, RowState
from .chunked_gradients import RowGradients, chunked_gradients
from .cpu_head import HeadTiling
from .triton import _options as kernel_transform
from .triton_costs import TritonHeadCosts

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
        per_row = RowGradients.of(targets, lse, onehot_coef, softmax_coef, transform)
        chunk = _GradientChunk(
            hidden,
            None if bias is None else bias.contiguous(),
            per_row,
            transform,
            None if kept is None else (*_kept_views(hidden, weight, transform, kept, kept_rows), logps),
        )
        costs = self.costs(hidden.dtype, weight.dtype)
        chunked_gradients(
            chunk, costs, hidden, weight, per_row.factor, tiling, dx=dx, dw=dw, db=db, add_to_dw=add_to_dw
        )
        return 0


class _GradientChunk:
    """Writes chunks of logit gradients, whether their logits are kept or made again."""

    def __init__(
        self,
        hidden: Tensor,
        bias: Tensor | None,
        per_row: RowGradients,
        transform: LogitTransform,
        kept: tuple[Tensor, Tensor | None, Tensor | None] | None,
    ) -> None:
        self._hidden, self._bias, self._per_row, self._transform, self._kept = hidden, bias, per_row, transform, kept

    scale_rows = staticmethod(scale_rows)

    def write(self, weight: Tensor, columns: tuple[int, int], rows: slice, out: Tensor, db: Tensor | None) -> None:
        """See :class:`fastpref.backends.chunked_gradients.ChunkKernels`."""
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
        of = self._per_row.rows(rows)
        sums = None
        if db is not None:
            sums = torch.empty(tiles, columns[1] - columns[0], dtype=torch.float32, device=db.device)
        options = {"db": sums, "factor": of.factor, "col0": columns[0], **kernel_transform(self._transform.rows(rows))}
        return of.targets, of.lse, of.onehot, of.softmax, options


def _add_sums(partial: Tensor | None, db: Tensor | None) -> None:
    if partial is not None and db is not None:
        db += partial.sum(dim=0)


def _kept_views(
    hidden: Tensor, weight: Tensor, transform: LogitTransform, kept: Tensor, rows: int
) -> tuple[Tensor, Tensor | None]:
    return kept_layout(hidden.dtype, weight.dtype, weight.shape[0], transform.softcap is not None).views(kept, rows)
