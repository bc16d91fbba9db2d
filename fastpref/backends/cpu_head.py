"""The linear head as two native calls (``csrc/cpu/head_amx.cpp``): no logit is ever in memory, and none is rounded to 16 bits.

Runs where the CPU has AMX, on operands of bf16, fp16 and fp32 in any combination (an fp32 number is the sum of three bf16 ones: six products of
tiles for one of fp32 numbers, of half the error of torch's GEMM). ``hidden [T, H]`` and ``weight [V, H]`` may be of different
dtypes; gradients come in the dtype of the buffer they are written to, summed in float32 and rounded once.

Limits: CPU only; every row counts (the caller leaves ignored ones out); scratch as :meth:`CpuHead.sizes` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._compile import constant
from ..scratch import take
from ..tile_costs import TileCosts
from .base import LogitTransform, RowState

PLANES = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}
"""bf16 numbers whose sum is an operand's element."""

TILE_EDGE = 32
"""Rows and columns of a block of logits."""


@dataclass(frozen=True)
class HeadSizes:
    """Bytes of scratch of the two calls, and of what is kept of the logits between them."""

    statistics: int
    gradients: int
    kept: int


@dataclass(frozen=True)
class HeadTiling:
    """How the gradients are cut: vocabulary columns and rows at a time, both multiples of :data:`TILE_EDGE`."""

    chunk: int
    row_block: int

    @classmethod
    def of(cls, chunk: int, row_block: int) -> HeadTiling:
        """Rounded up to multiples."""
        return cls(*(-(-n // TILE_EDGE) * TILE_EDGE for n in (chunk, row_block)))


@constant
def _threads() -> int:
    return torch.get_num_threads()


class CpuHead:
    """Statistics and gradients of a whole linear head."""

    def __init__(self, native: ModuleType, dtypes: dict[torch.dtype, int]) -> None:
        self._native, self._dtypes = native, dtypes

    @constant
    def why_not(self, hidden: torch.dtype, weight: torch.dtype) -> str | None:
        """``None`` if operands of these dtypes are taken by the instruction set in use, else the reason."""
        if not self._native.has_head():
            return f"{self._native.active_isa()} has no tile instructions"
        if hidden not in PLANES or weight not in PLANES:
            return f"operands are float32, bfloat16 or float16, found {hidden} and {weight}"
        return None

    def _operands(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
    ) -> tuple[Any, ...]:
        return (
            self._dtypes[hidden.dtype],
            self._dtypes[weight.dtype],
            hidden.shape[0],
            weight.shape[0],
            hidden.shape[1],
            hidden.data_ptr(),
            hidden.stride(0),
            weight.data_ptr(),
            weight.stride(0),
            _address(bias),
            targets.data_ptr(),
            _address(transform.inv_temperature),
            transform.logit_scale,
            transform.softcap,
            transform.temperature,
            torch.get_num_threads(),
        )

    def costs(self, hidden: torch.dtype, weight: torch.dtype) -> TileCosts:
        """What operands of these dtypes take, with as many threads as torch has now."""
        return TileCosts((PLANES[hidden], PLANES[weight]), _threads())

    def unseen_flops(self, shape: tuple[int, int, int], again: int, products: int, left_out: int) -> int:
        """All of them but those of the ``left_out`` blocks."""
        rows, vocab, width = shape
        return 2 * width * ((again + products * rows) * vocab - products * left_out * TILE_EDGE**2)

    def kept_bytes(
        self, hidden: torch.dtype, weight: torch.dtype, transform: LogitTransform, rows: int, vocab: int
    ) -> int:
        """What is kept of the logits of some rows."""
        tiling = HeadTiling(TILE_EDGE, TILE_EDGE)
        softcap = transform.softcap is not None
        return self.sizes(hidden, weight, (rows, vocab, 1), tiling, softcap=softcap, kept_rows=rows).kept

    def sizes(
        self,
        hidden: torch.dtype,
        weight: torch.dtype,
        shape: tuple[int, int, int],
        tiling: HeadTiling,
        *,
        statistics: bool = False,
        dx: bool = True,
        dw: bool = True,
        db: bool = False,
        softcap: bool = False,
        kept_rows: int = 0,
    ) -> HeadSizes:
        """What calls on ``(T, V, H)`` need, with as many threads as torch has now."""
        rows, vocab, width = shape
        operands = (
            self._dtypes[hidden], self._dtypes[weight], rows, vocab, width, 0, 0, 0, 0, 0, 0, 0, 1.0,
            1.0 if softcap else None, 1.0, torch.get_num_threads(),
        )  # fmt: skip
        return HeadSizes(*self._scratch(operands, tiling, statistics, dx, dw, db, kept_rows))

    def _scratch(
        self, operands: tuple[Any, ...], tiling: HeadTiling, statistics: bool, dx: bool, dw: bool, db: bool, kept: int
    ) -> tuple[int, int, int]:
        found: tuple[int, int, int] = self._native.head_scratch(
            operands,
            statistics=statistics,
            dx=dx,
            dw=dw,
            db=db,
            chunk=tiling.chunk,
            row_block=tiling.row_block,
            kept_rows=kept,
        )
        return found

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
            targets: ``[T]``.
            state: of the T rows, fresh.
            transform: of the logits.
            kept: gets the logits of the first ``kept_rows`` rows; bytes, as many as :meth:`sizes` says.
            kept_rows: how many.
        """
        bias = None if bias is None else bias.float().contiguous()
        operands = self._operands(hidden, weight, bias, targets, transform)
        optional = (state.s2, state.sd, state.total, state.top, state.argmax)
        if any(value is not None for value in optional):  # the kernel makes all of them, or none
            names = ("entropy", "log_sum_sq_probs", "argmax", "mean_logit")
            spare = RowState.start(hidden.shape[0], hidden.device, torch.float32, names)
            filled = (spare.s2, spare.sd, spare.total, spare.top, spare.argmax)
            optional = tuple(b if a is None else a for a, b in zip(optional, filled, strict=True))  # type: ignore[assignment]
        sizes = self._scratch(
            operands, HeadTiling(TILE_EDGE, TILE_EDGE), optional[0] is not None, False, False, False, 0
        )
        s2, sd, total, top, argmax = (_address(value) for value in optional)
        scratch = _aligned(sizes[0], hidden.device)
        self._native.head_stats(
            operands,
            m=state.m.data_ptr(),
            s=state.s.data_ptr(),
            zt=state.zt.data_ptr(),
            s2=s2,
            sd=sd,
            total=total,
            top=top,
            argmax=argmax,
            kept=_address(kept),
            kept_rows=kept_rows,
            scratch=scratch.data_ptr(),
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
            tiling: how the work is cut.
            dx: ``[T, H]`` contiguous, overwritten; ``None`` if not needed.
            dw: ``[V, H]``, overwritten or added to; ``None`` if not needed.
            db: ``[V]`` float32, added to; ``None`` if not needed.
            add_to_dw: add to what ``dw`` holds.
            kept: what :meth:`statistics` kept of the first ``kept_rows`` rows.
            kept_rows: how many: all rows, or a multiple of ``TILE_EDGE`` (a block of rows is kept as one).
            logps: ``[T]`` float32, with ``kept``.
            gradient_filter: leave out blocks of ``TILE_EDGE`` columns and rows without a target whose softmax is below this everywhere.

        Returns:
            How many blocks were left out.
        """
        if kept is not None and kept_rows % TILE_EDGE and kept_rows != hidden.shape[0]:
            raise ValueError(f"kept_rows: expected all rows or a multiple of {TILE_EDGE}, found {kept_rows}")
        bias = None if bias is None else bias.float().contiguous()
        operands = self._operands(hidden, weight, bias, targets, transform)
        wanted = (dx is not None, dw is not None, db is not None)
        scratch = _aligned(self._scratch(operands, tiling, False, *wanted, kept_rows)[1], hidden.device)
        lse, onehot_coef, softmax_coef = (v.float().contiguous() for v in (lse, onehot_coef, softmax_coef))
        logps = None if logps is None else logps.float().contiguous()
        left_out: int = self._native.head_grad(
            operands,
            lse=lse.data_ptr(),
            onehot_coef=onehot_coef.data_ptr(),
            softmax_coef=softmax_coef.data_ptr(),
            kept=_address(kept),
            kept_rows=kept_rows if kept is not None else 0,
            logps=_address(logps),
            dx=_address(dx),
            dx_dtype=self._dtypes[hidden.dtype if dx is None else dx.dtype],
            dw=_address(dw),
            dw_dtype=self._dtypes[weight.dtype if dw is None else dw.dtype],
            dw_stride=0 if dw is None else dw.stride(0),
            dw_add=add_to_dw,
            db=_address(db),
            filter=gradient_filter,
            chunk=tiling.chunk,
            row_block=tiling.row_block,
            scratch=scratch.data_ptr(),
        )
        return left_out


def _address(values: Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


def _aligned(nbytes: int, device: torch.device) -> Tensor:
    """Scratch that starts on a cache line."""
    buffer = take(nbytes + 64, torch.uint8, device)
    return buffer[-buffer.data_ptr() % 64 :]
