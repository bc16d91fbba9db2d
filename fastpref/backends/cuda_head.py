"""The linear head in CUDA C++ kernels: statistics on tensor cores with no logit in memory, gradients by chunks of the vocabulary.

Statistics are one kernel over all of hidden states and head and a small one that merges its parts (``csrc/cuda/linear_stats.cuh``). For the
gradients a chunk's logits are made again in float32 by torch's GEMM, which is the fastest there is for them, and turned into an operand
of the products of :mod:`fastpref.backends.chunked_gradients` by one more kernel (``tile_grad.cuh``), which also takes what the statistics kept.
Nothing waits for the GPU.

Operands are both bfloat16 or both float16; others run through torch's GEMMs and the row primitives.

Limits: rows that are ignored or have no coefficient take their place in the GEMMs. A ``gradient_filter`` leaves nothing out: it is a
permission, and which blocks it covers is not known without waiting for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastpref.kernels.kept_layout import kept_layout

from ..head_gemm import HeadGemm
from ..scratch import take
from .base import LogitTransform, RowState
from .chunked_costs import STRIDE
from .chunked_gradients import RowGradients, chunked_gradients
from .cpu_head import HeadTiling
from .cuda_costs import CudaHeadCosts, segment_columns, segments
from .native import address

DTYPES = (torch.bfloat16, torch.float16)

GRAD_ROWS = 64
"""Rows whose gradients a block sums for db."""


Where = Callable[[Tensor], dict[str, int]]
"""``device``, ``stream`` and ``multiprocessors`` of a launch on the device of a tensor."""


class CudaLauncher:
    """``fastpref._C`` and where its kernels run."""

    def __init__(self, native: ModuleType, where: Where) -> None:
        self.native, self.where = native, where
        self.dtypes = {
            torch.float32: native.FLOAT32,
            torch.bfloat16: native.BFLOAT16,
            torch.float16: native.FLOAT16,
        }

    def scale_rows(self, x: Tensor, factor: Tensor, out: Tensor) -> None:
        """``out = x * factor[:, None]``, 0 where the factor is 0 whatever ``x`` holds; ``out`` may be ``x``."""
        self.native.cuda_scale_rows(
            **self.where(x),
            dtype=self.dtypes[x.dtype],
            out_dtype=self.dtypes[out.dtype],
            rows=x.shape[0],
            width=x.shape[1],
            x=x.data_ptr(),
            x_stride=x.stride(0),
            factor=factor.data_ptr(),
            out=out.data_ptr(),
            out_stride=out.stride(0),
        )


class CudaHead:
    """Statistics and gradients of a whole linear head (see :class:`fastpref.backends.head_engine.HeadEngine`).

    Args:
        native: ``fastpref._C``, with a library of CUDA kernels loaded.
        where: says where launches run.
        emulated: whether the library is the emulator's, which runs on the CPU.
    """

    def __init__(self, native: ModuleType, where: Where, emulated: bool) -> None:
        self._launcher = CudaLauncher(native, where)
        # One GEMM takes 16-bit operands into float32: on CUDA, from torch 2.8 on.
        self._casts = emulated or not hasattr(torch.ops.aten.mm, "dtype_out")

    def why_not(self, hidden: torch.dtype, weight: torch.dtype) -> str | None:
        """``None`` if operands of these dtypes are taken, else the reason."""
        if hidden not in DTYPES or weight != hidden:
            return f"operands are both bfloat16 or both float16, found {hidden} and {weight}"
        return None

    def costs(self, hidden: torch.dtype, weight: torch.dtype) -> CudaHeadCosts:
        """What operands of these dtypes take."""
        return CudaHeadCosts(hidden, weight, self._casts)

    def kept_bytes(
        self, hidden: torch.dtype, weight: torch.dtype, transform: LogitTransform, rows: int, vocab: int
    ) -> int:
        """What is kept of the logits of some rows."""
        return self.costs(hidden, weight).kept_bytes(rows, vocab, softcap=transform.softcap is not None)

    def unseen_flops(self, shape: tuple[int, int, int], again: int, products: int, left_out: int) -> int:
        """None: the logits that were made again, dX and dW are torch's own products."""
        return 0

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
        (rows, width), vocab = hidden.shape, weight.shape[0]
        if kept is not None and kept_rows != rows:
            raise ValueError(f"kept_rows: expected all {rows} rows, found {kept_rows}")
        values, references = (None, None) if kept is None else _kept_views(weight, transform, kept, rows)
        bias = None if bias is None else bias.float().contiguous()
        native, others = self._launcher.native, any(v is not None for v in (state.sd, state.total, state.top))
        size = native.cuda_linear_stats_bytes(
            rows=rows, segments=segments(vocab), s2=state.s2 is not None, others=others
        )
        parts = take(size // 4, torch.float32, hidden.device)
        native.cuda_linear_stats(
            **self._launcher.where(hidden),
            dtype=self._launcher.dtypes[hidden.dtype],
            rows=rows,
            columns=vocab,
            width=width,
            hidden=hidden.data_ptr(),
            hidden_stride=hidden.stride(0),
            weight=weight.data_ptr(),
            weight_stride=weight.stride(0),
            bias=address(bias),
            targets=targets.data_ptr(),
            segment=segment_columns(vocab),
            parts=parts.data_ptr(),
            **{name: address(value) for name, value in vars(state).items()},
            kept=address(values),
            references=address(references),
            kept_stride=0 if values is None else values.stride(0),
            **_options(transform),
        )

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
        if kept is not None and logps is None:
            raise ValueError("logps: expected those of the kept rows, found None")
        per_row = RowGradients.of(targets, lse, onehot_coef, softmax_coef, transform)
        chunk = _GradientChunk(
            self._launcher,
            hidden,
            weight,
            None if bias is None else bias.float().contiguous(),
            per_row,
            transform,
            tiling,
            None if kept is None else _kept_views(weight, transform, kept, kept_rows),
            None if logps is None else logps.float().contiguous(),
        )
        costs = self.costs(hidden.dtype, weight.dtype)
        chunked_gradients(
            chunk, costs, hidden, weight, per_row.factor, tiling, dx=dx, dw=dw, db=db, add_to_dw=add_to_dw
        )
        return 0


class _GradientChunk:
    """Writes chunks of logit gradients (see :class:`fastpref.backends.chunked_gradients.ChunkKernels`): those of the first rows from what is
    kept of them, those of the others from logits that a GEMM makes again."""

    def __init__(
        self,
        launcher: CudaLauncher,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        per_row: RowGradients,
        transform: LogitTransform,
        tiling: HeadTiling,
        kept: tuple[Tensor, Tensor | None] | None,
        logps: Tensor | None,
    ) -> None:
        self._launcher, self._bias, self._per_row, self._transform = launcher, bias, per_row, transform
        self._kept, self._logps = kept, logps
        self._known = 0 if kept is None else kept[0].shape[0]
        self.scale_rows = launcher.scale_rows
        again = hidden[self._known :]
        if again.shape[0]:
            columns = min(tiling.chunk, weight.shape[0])
            stride = -(-columns // STRIDE) * STRIDE
            block = min(tiling.row_block, hidden.shape[0])
            self._gemm = HeadGemm(weight, None, again, columns)
            self._logits = take(block * stride, torch.float32, hidden.device).view(block, stride)

    def write(self, weight: Tensor, columns: tuple[int, int], rows: slice, out: Tensor, db: Tensor | None) -> None:
        """See the protocol."""
        known = min(max(self._known - rows.start, 0), out.shape[0])
        middle = rows.start + known
        if self._kept is not None and known:
            values, references = self._kept
            held = slice(rows.start, middle)
            if references is None:
                values = values[held, columns[0] : columns[1]]
            else:
                values, references = values[held, columns[0] :], references[held]
            self._write(values, references, columns, held, out[:known], db, kept=True)
        if middle < rows.stop:
            again = slice(middle, rows.stop)
            logits = self._logits[: again.stop - again.start, : columns[1] - columns[0]]
            self._gemm.logits(columns, slice(again.start - self._known, again.stop - self._known), logits)
            self._write(logits, None, columns, again, out[known:], db, kept=False)

    def _write(
        self,
        values: Tensor,
        references: Tensor | None,
        columns: tuple[int, int],
        rows: slice,
        out: Tensor,
        db: Tensor | None,
        *,
        kept: bool,
    ) -> None:
        of, bias = self._per_row.rows(rows), None
        if self._bias is not None and not kept:
            bias = self._bias[columns[0] : columns[1]]
        sums = None
        if db is not None:
            sums = take(-(-out.shape[0] // GRAD_ROWS) * out.shape[1], torch.float32, out.device).view(-1, out.shape[1])
        self._launcher.native.cuda_tile_grad(
            **self._launcher.where(out),
            dtype=self._launcher.dtypes[out.dtype],
            rows=out.shape[0],
            columns=out.shape[1],
            col0=columns[0],
            values=values.data_ptr(),
            values_stride=values.stride(0),
            references=address(references),
            references_stride=0 if references is None else references.stride(0),
            bias=address(bias),
            targets=of.targets.data_ptr(),
            lse=of.lse.data_ptr(),
            logps=address(self._logps[rows]) if kept and self._logps is not None else 0,
            onehot_coef=of.onehot.data_ptr(),
            softmax_coef=of.softmax.data_ptr(),
            out=out.data_ptr(),
            out_stride=out.stride(0),
            factor=address(of.factor) if sums is not None else 0,
            db=address(sums),
            **_options(self._transform.rows(rows)),
        )
        if db is not None and sums is not None:
            db += sums.sum(dim=0)


def _options(transform: LogitTransform) -> dict[str, Any]:
    """The kernels' form of the transform."""
    return {
        "inv_temperature": address(transform.inv_temperature),
        "logit_scale": transform.logit_scale,
        "softcap": transform.softcap,
        "temperature": transform.temperature,
    }


def _kept_views(weight: Tensor, transform: LogitTransform, kept: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
    return kept_layout(weight.dtype, weight.dtype, weight.shape[0], transform.softcap is not None).views(kept, rows)
