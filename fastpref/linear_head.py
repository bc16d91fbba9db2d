"""The vocabulary loop: stages 1 and 3 over ``logits = hidden @ weight.T + bias`` without a ``[T, V]`` matrix.

Written once above every backend. The forward walks vocabulary chunks and folds each into the rows' running statistics; the backward
walks the same chunks, recomputes their logits or finds them kept (D1, D2; some of the rows: D3), turns them into gradients, and feeds two
GEMMs: ``dW[chunk]`` over all of T, written once, and ``dX``, accumulated in float32. What is kept is laid out chunk by chunk, and a
policy and a reference with a head of its own run the very same GEMMs on the same shapes: where both hold the same numbers their
log-probs are the same bits.

A divergence between two heads runs the same loops: both heads' chunks of the same columns, side by side.

Nothing here knows a loss: a gradient takes two or three coefficients per row (see ``Backend.row_grad`` and ``row_kl_grad``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .backends.base import (
    Backend,
    Direction,
    KlState,
    LogitTransform,
    RowState,
    RowStatistics,
    accumulation_dtype,
)


@dataclass(frozen=True)
class Head:
    """A linear head and how its logits are used: ``weight [V, H]``, ``bias [V]`` or ``None``."""

    weight: Tensor
    bias: Tensor | None
    transform: LogitTransform
    backend: Backend

    @property
    def vocab(self) -> int:
        """V."""
        return self.weight.shape[0]


@dataclass(frozen=True)
class Tiling:
    """Vocabulary columns and rows per GEMM; in a forward sweep no GEMM takes both rows before row ``boundary`` and others."""

    vocab_chunk: int
    row_block: int
    boundary: int = 0

    def columns(self, vocab: int) -> Iterator[tuple[int, int]]:
        """``(first, last + 1)`` of each vocabulary chunk."""
        for start in range(0, vocab, self.vocab_chunk):
            yield start, min(start + self.vocab_chunk, vocab)

    def blocks(self, rows: int) -> Iterator[slice]:
        """The rows of each block."""
        for start in range(0, rows, self.row_block):
            yield slice(start, min(start + self.row_block, rows))

    def sweep_blocks(self, rows: int) -> Iterator[slice]:
        """The rows of each block of a forward sweep."""
        kept = min(self.boundary, rows)
        yield from self.blocks(kept)
        for block in self.blocks(rows - kept):
            yield slice(kept + block.start, kept + block.stop)


@dataclass
class Needs:
    """Which gradients are wanted."""

    hidden: bool = True
    weight: bool = True
    bias: bool = True


def chunk_logits(head: Head, hidden: Tensor, columns: tuple[int, int], out: Tensor) -> Tensor:
    """``out [rows, columns] = hidden @ weight[columns].T + bias[columns]``."""
    first, last = columns
    weight = head.weight[first:last].t()
    if head.bias is None:
        return torch.mm(hidden, weight, out=out)
    return torch.addmm(head.bias[first:last], hidden, weight, out=out)


def scratch(like: Tensor, elements: int) -> Tensor:
    """An uninitialised flat buffer with the dtype and device of ``like``."""
    return torch.empty(elements, dtype=like.dtype, device=like.device)


def shaped(buffer: Tensor, rows: int, columns: int, offset: int = 0) -> Tensor:
    """A contiguous ``[rows, columns]`` view of a flat buffer."""
    return buffer[offset : offset + rows * columns].view(rows, columns)


def kept_buffer(head: Head, hidden: Tensor, rows: int) -> Tensor:
    """An uninitialised buffer for what is kept of the logits of ``rows`` rows. Only this module knows what it holds."""
    return scratch(hidden, rows * head.vocab)


@dataclass(frozen=True)
class Kept:
    """What is kept of the logits of the first ``rows`` rows of a sweep: here the logits themselves, chunk by chunk.

    Attributes:
        buffer: from :func:`kept_buffer`, for at least ``rows`` rows.
        rows: how many.
        once: the gradients may overwrite it.
    """

    buffer: Tensor
    rows: int
    once: bool = False

    def count(self, block: slice) -> int:
        """How many of the block's rows are kept: its first ones."""
        return min(max(self.rows - block.start, 0), block.stop - block.start)

    def chunk(self, columns: tuple[int, int], block: slice) -> Tensor:
        """``[rows, columns]`` of those of the block's rows that are kept."""
        width = columns[1] - columns[0]
        return shaped(self.buffer, self.count(block), width, self.rows * columns[0] + block.start * width)


def sweep(head: Head, hidden: Tensor, tiling: Tiling, kept: Kept | None = None) -> Iterator[tuple[int, slice, Tensor]]:
    """``(first column, rows, logits [rows, columns])`` of every vocabulary chunk and row block.

    The logits that go to ``kept`` stay; all others are valid until the next step. ``tiling.boundary`` is the number of kept rows.
    """
    rows = hidden.shape[0]
    others = rows if kept is None else rows - kept.rows
    buffer = scratch(hidden, min(others, tiling.row_block) * min(head.vocab, tiling.vocab_chunk))
    for first, last in tiling.columns(head.vocab):
        for block in tiling.sweep_blocks(rows):
            x = hidden[block]
            stays = kept is not None and block.start < kept.rows
            out = kept.chunk((first, last), block) if kept and stays else shaped(buffer, x.shape[0], last - first)
            yield first, block, chunk_logits(head, x, (first, last), out)


def statistics(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    tiling: Tiling,
    kept: Kept | None = None,
    stats: Sequence[str] = (),
) -> RowStatistics:
    """The statistics of every row, each ``[T]``; 0 on ignored rows.

    Args:
        head: the head.
        hidden: ``[T, H]``, contiguous.
        targets: ``[T]`` normalised.
        tiling: chunk sizes; its ``boundary`` is the number of kept rows.
        kept: gets the logits of its rows; ``None`` to keep nothing.
        stats: what is wanted beside ``logps`` and ``lse``, some of ``STATISTICS``; it comes from the same sweep.
    """
    rows = hidden.shape[0]
    state = RowState.start(rows, hidden.device, accumulation_dtype(hidden.dtype), stats)
    for first, block, logits in sweep(head, hidden, tiling, kept):
        head.backend.row_stats(logits, targets[block], state.rows(block), col0=first, transform=head.transform)
    return state.statistics(targets, head.vocab)


def stacked_statistics(
    head: Head,
    hidden: Tensor,
    ref_hidden: Tensor,
    targets: Tensor,
    tiling: Tiling,
    kept: Kept | None = None,
    stats: Sequence[str] = (),
) -> tuple[RowStatistics, Tensor]:
    """:func:`statistics` of the policy, and the reference's log-probs ``[T]``, in one sweep over the rows of both.

    Args:
        head: the head that both have.
        hidden: ``[T, H]`` of the policy.
        ref_hidden: ``[T, H]`` of the reference.
        targets: ``[T]`` normalised, of both.
        tiling: chunk sizes over the 2T rows.
        kept: gets logits of the policy only.
        stats: what is wanted of the policy.
    """
    rows = hidden.shape[0]
    both = statistics(head, torch.cat([hidden, ref_hidden]), torch.cat([targets, targets]), tiling, kept, stats)
    given = ((field.name, getattr(both, field.name)) for field in fields(both))
    values: dict[str, Any] = {name: None if value is None else value[:rows].clone() for name, value in given}
    return RowStatistics(**values), both.logps[rows:].clone()


def divergence(
    head: Head,
    hidden: Tensor,
    ref_head: Head,
    ref_hidden: Tensor,
    targets: Tensor,
    tiling: Tiling,
    direction: Direction,
) -> KlState:
    """The finished state of policy and reference, both heads' chunks of the same columns side by side.

    Args:
        head: the policy's head, whose transform and backend are used for both.
        hidden: ``[T, H]``, contiguous.
        ref_head: the reference's head, of the same V.
        ref_hidden: ``[T, H']``, contiguous.
        targets: ``[T]`` normalised.
        tiling: chunk sizes.
        direction: of the divergence.
    """
    state = KlState.start(hidden.shape[0], hidden.device, accumulation_dtype(hidden.dtype))
    both = zip(sweep(head, hidden, tiling), sweep(ref_head, ref_hidden, tiling), strict=True)
    for (first, block, logits), (_, _, ref_logits) in both:
        head.backend.row_kl_stats(
            logits,
            ref_logits,
            targets[block],
            state.rows(block),
            col0=first,
            transform=head.transform,
            direction=direction,
        )
    return state


@dataclass
class WeightGradient:
    """dW and db of a head, summed over any number of calls of :func:`gradients`; each in the parameter's dtype at the end.

    ``float32`` keeps the sum of a 16-bit dW in float32 until :meth:`finish`.
    """

    weight: Tensor | None
    bias: Tensor | None
    started: bool = False

    @classmethod
    def start(cls, head: Head, needs: Needs, *, float32: bool = False) -> WeightGradient:
        """Buffers for what is needed. db is small and always summed in the accumulation dtype."""
        accumulate = accumulation_dtype(head.weight.dtype)
        weight = (
            torch.empty(
                head.weight.shape, dtype=accumulate if float32 else head.weight.dtype, device=head.weight.device
            )
            if needs.weight
            else None
        )
        bias = torch.zeros(head.vocab, dtype=accumulate, device=head.weight.device) if needs.bias else None
        return cls(weight, bias)

    def restart(self) -> None:
        """Forget the sums."""
        self.started = False
        if self.bias is not None:
            self.bias.zero_()

    def scale(self, factor: Tensor) -> None:
        """Multiply the sums by a scalar."""
        for value in (self.weight if self.started else None, self.bias):
            if value is not None:
                value.mul_(factor)

    def add(self, other: WeightGradient, factor: Tensor) -> None:
        """Add those of another, times a scalar."""
        if self.bias is not None and other.bias is not None:
            self.bias.addcmul_(other.bias, factor.to(self.bias.dtype))
        if self.weight is not None and other.weight is not None and other.started:
            if self.started:
                self.weight.addcmul_(other.weight, factor.to(self.weight.dtype))
            else:
                torch.mul(other.weight, factor.to(self.weight.dtype), out=self.weight)
        self.started = self.started or other.started

    def finish(self, head: Head) -> tuple[Tensor | None, Tensor | None]:
        """``(dW, db)`` in the parameter's dtype; zeros where no row was seen."""
        if self.weight is not None and not self.started:
            self.weight.zero_()
        weight = None if self.weight is None else self.weight.to(head.weight.dtype)
        bias = None if self.bias is None else self.bias.to(head.weight.dtype)
        return weight, bias


def gradients(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    tiling: Tiling,
    needs: Needs,
    into: WeightGradient,
    kept: Kept | None = None,
    rounded: bool = True,
) -> Tensor | None:
    """dX ``[T, H]`` in the dtype of ``hidden`` (``None`` if not needed); dW and db are added to ``into``.

    Args:
        head: the head.
        hidden: ``[T, H]``, contiguous.
        targets: ``[T]`` normalised.
        lse: ``[T]`` from :func:`statistics`.
        onehot_coef: ``[T]``, see ``Backend.row_grad``.
        softmax_coef: ``[T]``.
        tiling: chunk sizes.
        needs: which gradients are wanted.
        into: the sums of dW and db.
        kept: what :func:`statistics` kept of the first rows; the logits of the others are made again. With ``kept.once`` all rows must be kept.
        rounded: ``False`` leaves dX in the accumulation dtype.
    """
    coefs, scale = scaled_coefficients(hidden, onehot_coef, softmax_coef)

    def differentiate(logits: Tensor, columns: tuple[int, int], block: slice) -> None:
        sources = [] if kept is None else [kept.chunk(columns, block)]
        sources.append(logits[sum(source.shape[0] for source in sources) :])
        first = 0
        for source in sources:
            rows = slice(block.start + first, block.start + first + source.shape[0])
            out = logits[first : first + source.shape[0]]
            first += source.shape[0]
            a, b = (coef[rows] for coef in coefs)
            head.backend.row_grad(
                source, targets[rows], lse[rows], a, b, out, col0=columns[0], transform=head.transform
            )

    return backpropagate(head, hidden, differentiate, tiling, needs, into, scale, kept, rounded)


def divergence_gradients(
    head: Head,
    hidden: Tensor,
    ref_head: Head,
    ref_hidden: Tensor,
    targets: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    coefs: tuple[Tensor, Tensor, Tensor],
    tiling: Tiling,
    direction: Direction,
    needs: Needs,
    into: WeightGradient,
) -> Tensor | None:
    """:func:`gradients` of the policy where the loss also depends on its divergence; both heads' logits are made again by chunks.

    Args:
        head: the policy's head, whose transform and backend are used for both.
        hidden: ``[T, H]``, contiguous.
        ref_head: the reference's head, of the same V.
        ref_hidden: ``[T, H']``, contiguous.
        targets: ``[T]`` normalised.
        saved: ``lse``, ``ref_lse`` and ``kl`` from :func:`divergence`, each ``[T]``.
        coefs: ``onehot_coef``, ``softmax_coef`` and ``kl_coef``, each ``[T]``, see ``Backend.row_kl_grad``.
        tiling: chunk sizes.
        direction: of the divergence.
        needs: which gradients are wanted.
        into: the sums of dW and db.
    """
    scaled, scale = scaled_coefficients(hidden, *coefs)
    rows = min(hidden.shape[0], tiling.row_block)
    buffer = scratch(ref_hidden, rows * min(head.vocab, tiling.vocab_chunk))

    def differentiate(logits: Tensor, columns: tuple[int, int], block: slice) -> None:
        ref_logits = chunk_logits(ref_head, ref_hidden[block], columns, shaped(buffer, *logits.shape))
        lse, ref_lse, kl, a, b, c = (value[block] for value in (*saved, *scaled))
        head.backend.row_kl_grad(
            logits,
            ref_logits,
            targets[block],
            lse,
            ref_lse,
            kl,
            a,
            b,
            c,
            logits,
            col0=columns[0],
            transform=head.transform,
            direction=direction,
        )

    return backpropagate(head, hidden, differentiate, tiling, needs, into, scale)


def backpropagate(
    head: Head,
    hidden: Tensor,
    differentiate: Callable[[Tensor, tuple[int, int], slice], None],
    tiling: Tiling,
    needs: Needs,
    into: WeightGradient,
    scale: Tensor | None,
    kept: Kept | None = None,
    rounded: bool = True,
) -> Tensor | None:
    """dX ``[T, H]`` (``None`` if not needed) from the gradients of the logits; dW and db are added to ``into``.

    ``differentiate(logits, columns, block)`` overwrites one chunk of logits with its gradient, divided by ``scale`` where that is given.
    It finds the logits of those rows of the block that are in ``kept`` there, unless they are the chunk itself (``kept.once``).
    """
    rows = hidden.shape[0]
    if rows == 0:
        return torch.zeros_like(hidden) if needs.hidden else None
    accumulate = accumulation_dtype(hidden.dtype)
    same_dtype = hidden.dtype == accumulate
    dx = torch.zeros(hidden.shape, dtype=accumulate, device=hidden.device) if needs.hidden else None
    part = torch.empty_like(hidden[: min(rows, tiling.row_block)]) if needs.hidden and not same_dtype else None
    split = rows > tiling.row_block
    chunk = min(head.vocab, tiling.vocab_chunk)
    in_place = kept is not None and kept.once
    buffer = scratch(hidden, 0 if in_place else min(rows, tiling.row_block) * chunk)
    dw_chunk = (
        torch.empty(chunk, hidden.shape[1], dtype=accumulate, device=hidden.device)
        if into.weight is not None and into.weight.dtype != accumulate and split
        else None
    )
    for first, last in tiling.columns(head.vocab):
        dw = None if into.weight is None else into.weight[first:last]
        for block in tiling.blocks(rows):
            x = hidden[block]
            known = 0 if kept is None else kept.count(block)
            if kept is not None and in_place:
                d = kept.chunk((first, last), block)
            else:
                d = shaped(buffer, x.shape[0], last - first)
            if known < x.shape[0]:
                chunk_logits(head, x[known:], (first, last), d[known:])
            differentiate(d, (first, last), block)
            if dx is not None:
                if part is None:
                    dx[block].addmm_(d, head.weight[first:last])
                else:
                    dx[block] += torch.mm(d, head.weight[first:last], out=part[: x.shape[0]])
            if into.bias is not None:
                db = d.sum(dim=0, dtype=accumulate)
                into.bias[first:last] += db if scale is None else db * scale
            if dw is not None:
                fresh = not into.started and block.start == 0
                if dw_chunk is not None:
                    add_product(dw_chunk[: last - first], d, x, fresh=block.start == 0)
                else:
                    add_product(dw, d, x, fresh=fresh, scale=scale)
        if dw is not None and dw_chunk is not None:
            total = dw_chunk[: last - first] if scale is None else dw_chunk[: last - first].mul_(scale)
            if into.started:
                total = total.add_(dw)
            dw.copy_(total)
    into.started = True
    if dx is None:
        return None
    if scale is not None:
        dx *= scale
    return dx.to(hidden.dtype) if rounded else dx


def add_product(out: Tensor, d: Tensor, x: Tensor, *, fresh: bool, scale: Tensor | None = None) -> None:
    """``out (+)= scale * d.T @ x``; rounded once when ``out`` has the operands' dtype, in float32 when it is float32."""
    if fresh and out.dtype == d.dtype:
        torch.mm(d.t(), x, out=out)
        if scale is not None:
            out.mul_(scale)
    elif out.dtype == d.dtype and scale is None:
        out.addmm_(d.t(), x)
    else:
        product = torch.mm(d.t(), x).to(out.dtype)
        if scale is not None:
            product.mul_(scale)
        out.copy_(product) if fresh else out.add_(product)


def scaled_coefficients(hidden: Tensor, *coefs: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The coefficients, and ``None``; for float16 operands divided by a power of two near the largest, and that power.

    float16 probabilities times a small coefficient would underflow, so the gradient GEMMs run on coefficients of about 1 and their results
    are multiplied by the power, exactly.
    """
    if hidden.dtype != torch.float16 or hidden.shape[0] == 0:
        return coefs, None
    largest = torch.stack([coef.abs().amax() for coef in coefs]).amax()
    scale = torch.exp2(torch.floor(torch.log2(largest.clamp_min(torch.finfo(largest.dtype).tiny))))
    return tuple(coef / scale for coef in coefs), scale
