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
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from . import work
from .backends.base import (
    Backend,
    Direction,
    KlState,
    LogitTransform,
    RowState,
    RowStatistics,
    accumulation_dtype,
)
from .backends.cpu_head import HeadTiling
from .backends.head_engine import HeadEngine
from .gradient_filter import GradientFilter
from .head_gemm import HeadGemm, gradient_dtype
from .scratch import fresh, take


@dataclass(frozen=True)
class Head:
    """A linear head and how its logits are used: ``weight [V, H]``, ``bias [V]`` or ``None``.

    A ``transform`` with a temperature per row is that of the very rows that the head is run on.
    """

    weight: Tensor
    bias: Tensor | None
    transform: LogitTransform
    backend: Backend

    @property
    def vocab(self) -> int:
        """V."""
        return self.weight.shape[0]

    def engine(self, hidden: Tensor) -> HeadEngine | None:
        """What runs the whole vocabulary in one call for these hidden states; ``None``: the loops of this module do, by chunks."""
        engine: HeadEngine | None = getattr(self.backend, "head", None)
        if engine is None or engine.why_not(hidden.dtype, self.weight.dtype) is not None:
            return None
        return engine


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


def scratch(hidden: Tensor, elements: int) -> Tensor:
    """An uninitialised flat buffer for the logits of these hidden states."""
    return take(elements, accumulation_dtype(hidden.dtype), hidden.device)


def shaped(buffer: Tensor, rows: int, columns: int, offset: int = 0) -> Tensor:
    """A contiguous ``[rows, columns]`` view of a flat buffer."""
    return buffer[offset : offset + rows * columns].view(rows, columns)


def kept_form(head: Head, hidden: Tensor, rows: int) -> tuple[int, torch.dtype]:
    """Elements and dtype of :func:`kept_buffer`."""
    engine = head.engine(hidden)
    if engine is None:
        return rows * head.vocab, accumulation_dtype(hidden.dtype)
    return engine.kept_bytes(hidden.dtype, head.weight.dtype, head.transform, rows, head.vocab), torch.uint8


def kept_buffer(head: Head, hidden: Tensor, rows: int) -> Tensor:
    """An uninitialised buffer for what is kept of the logits of ``rows`` rows. Only this module knows what it holds."""
    return take(*kept_form(head, hidden, rows), hidden.device)


@dataclass(frozen=True)
class Kept:
    """What is kept of the logits of the first ``rows`` rows of a sweep: here the logits themselves, chunk by chunk.

    Attributes:
        buffer: from :func:`kept_buffer`, for at least ``rows`` rows.
        rows: how many.
        once: the gradients may overwrite it.
        logps: the log-probs of all rows of the sweep, for the gradients.
    """

    buffer: Tensor
    rows: int
    once: bool = False
    logps: Tensor | None = None

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
    gemm = HeadGemm(head.weight, head.bias, hidden, tiling.vocab_chunk)
    buffer = scratch(hidden, min(others, tiling.row_block) * min(head.vocab, tiling.vocab_chunk))
    for first, last in tiling.columns(head.vocab):
        for block in tiling.sweep_blocks(rows):
            stays = kept is not None and block.start < kept.rows
            count = block.stop - block.start
            out = kept.chunk((first, last), block) if kept and stays else shaped(buffer, count, last - first)
            yield first, block, gemm.logits((first, last), block, out)


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
    if (engine := head.engine(hidden)) is not None:
        _statistics_by(engine, head, hidden, targets, tiling, kept, state)
        return state.statistics(targets, head.vocab)
    for first, block, logits in sweep(head, hidden, tiling, kept):
        head.backend.row_stats(
            logits, targets[block], state.rows(block), col0=first, transform=head.transform.rows(block)
        )
    return state.statistics(targets, head.vocab)


def _statistics_by(
    engine: HeadEngine, head: Head, hidden: Tensor, targets: Tensor, tiling: Tiling, kept: Kept | None, state: RowState
) -> None:
    """Fold all columns into ``state``; the kept rows in one call."""
    first = 0 if kept is None else kept.rows
    blocks = [slice(0, first)] if first else []
    blocks += [slice(first + b.start, first + b.stop) for b in tiling.blocks(hidden.shape[0] - first)]
    for block in blocks:
        keep = kept if block.stop <= first else None
        engine.statistics(
            hidden[block],
            head.weight,
            head.bias,
            targets[block],
            state.rows(block),
            head.transform.rows(block),
            kept=None if keep is None else keep.buffer,
            kept_rows=0 if keep is None else keep.rows,
        )
    work.add(2 * hidden.numel() * head.vocab)


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
    inverse = head.transform.inv_temperature
    doubled = replace(head.transform, inv_temperature=None if inverse is None else torch.cat([inverse, inverse]))
    head = replace(head, transform=doubled)
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
            transform=head.transform.rows(block),
            direction=direction,
        )
    return state


@dataclass
class WeightGradient:
    """dW and db of a head, summed over any number of calls of :func:`gradients`; each in the parameter's dtype at the end.

    ``float32`` keeps the sum of a 16-bit dW in float32 until :meth:`finish`. A ``main_grad [V, H]``, the caller's own sum in the
    accumulation dtype, takes the place of dW.
    """

    weight: Tensor | None
    bias: Tensor | None
    started: bool = False
    main_grad: Tensor | None = None

    @classmethod
    def start(
        cls, head: Head, needs: Needs, *, float32: bool = False, main_grad: Tensor | None = None
    ) -> WeightGradient:
        """Buffers for what is needed. db is small and always summed in the accumulation dtype."""
        accumulate = accumulation_dtype(head.weight.dtype)
        bias = torch.zeros(head.vocab, dtype=accumulate, device=head.weight.device) if needs.bias else None
        if main_grad is not None:
            return cls(main_grad, bias, started=True, main_grad=main_grad)
        dtype = accumulate if float32 else head.weight.dtype
        return cls(fresh(head.weight.shape, dtype, head.weight.device) if needs.weight else None, bias)

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

    def finish(self, head: Head, *, float32: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """``(dW, db)`` in the parameter's dtype, or dW as it was summed; zeros where no row was seen. No dW if it went into a ``main_grad``."""
        bias = None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype)
        if self.weight is None or self.main_grad is not None:
            return None, bias
        if not self.started:
            self.weight.zero_()
        return self.weight if float32 else self.weight.to(head.weight.dtype), bias


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
    gradient_filter: float | None = None,
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
        gradient_filter: see :mod:`fastpref.gradient_filter`; ``None`` for the exact gradients.
    """
    if (engine := head.engine(hidden)) is not None:
        given = (onehot_coef, softmax_coef)
        return _gradients_by(
            engine, head, hidden, targets, lse, given, tiling, needs, into, kept, rounded, gradient_filter
        )
    coefs, scale = scaled_coefficients(head, hidden, onehot_coef, softmax_coef)
    select = None if gradient_filter is None else GradientFilter(gradient_filter, targets, lse, head.transform)

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
                source, targets[rows], lse[rows], a, b, out, col0=columns[0], transform=head.transform.rows(rows)
            )

    return backpropagate(head, hidden, differentiate, tiling, needs, into, scale, kept, rounded, select)


def _gradients_by(
    engine: HeadEngine,
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    lse: Tensor,
    coefs: tuple[Tensor, Tensor],
    tiling: Tiling,
    needs: Needs,
    into: WeightGradient,
    kept: Kept | None,
    rounded: bool,
    gradient_filter: float | None,
) -> Tensor | None:
    """:func:`gradients` in one call."""
    rows, vocab = hidden.shape[0], head.vocab
    if rows == 0:
        return torch.zeros_like(hidden) if needs.hidden else None
    dx = None
    if needs.hidden:
        dx = fresh(hidden.shape, hidden.dtype if rounded else accumulation_dtype(hidden.dtype), hidden.device)
    wanted = (dx is not None) + (into.weight is not None)
    left_out = engine.gradients(
        hidden,
        head.weight,
        head.bias,
        targets,
        lse,
        *coefs,
        head.transform,
        HeadTiling.of(tiling.vocab_chunk, tiling.row_block),
        dx=dx,
        dw=into.weight,
        db=into.bias,
        add_to_dw=into.started,
        kept=None if kept is None else kept.buffer,
        kept_rows=0 if kept is None else kept.rows,
        logps=None if kept is None else kept.logps,
        gradient_filter=gradient_filter or 0.0,
    )
    into.started = True
    again = rows if kept is None else rows - kept.rows
    work.add(engine.unseen_flops((rows, vocab, hidden.shape[1]), again, wanted, left_out))
    return dx


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
    scaled, scale = scaled_coefficients(head, hidden, *coefs)
    ref_gemm = HeadGemm(ref_head.weight, ref_head.bias, ref_hidden, tiling.vocab_chunk)
    rows = min(hidden.shape[0], tiling.row_block)
    buffer = scratch(ref_hidden, rows * min(head.vocab, tiling.vocab_chunk))

    def differentiate(logits: Tensor, columns: tuple[int, int], block: slice) -> None:
        ref_logits = ref_gemm.logits(columns, block, shaped(buffer, *logits.shape))
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
            transform=head.transform.rows(block),
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
    select: GradientFilter | None = None,
) -> Tensor | None:
    """dX ``[T, H]`` (``None`` if not needed) from the gradients of the logits; dW and db are added to ``into``.

    ``differentiate(logits, columns, block)`` overwrites one chunk of logits with its gradient, divided by ``scale`` where that is given.
    It finds the logits of those rows of the block that are in ``kept`` there, unless they are the chunk itself (``kept.once``).
    ``select`` says which columns of it the two GEMMs take; ``None``: all.
    """
    rows = hidden.shape[0]
    if rows == 0:
        return torch.zeros_like(hidden) if needs.hidden else None
    accumulate = accumulation_dtype(hidden.dtype)
    gemm = HeadGemm(head.weight, head.bias, hidden, tiling.vocab_chunk)
    most_rows, chunk = min(rows, tiling.row_block), min(head.vocab, tiling.vocab_chunk)
    dx, part = None, None
    if needs.hidden:
        elements = hidden.numel()
        dx = (
            fresh(hidden.shape, accumulate, hidden.device)  # it is what the caller gets
            if hidden.dtype == accumulate
            else take(elements, accumulate, hidden.device).view(hidden.shape)
        ).zero_()
        if gemm.gradient_dtype != accumulate:
            part = take(most_rows * hidden.shape[1], gemm.gradient_dtype, hidden.device).view(most_rows, -1)
    in_place = kept is not None and kept.once
    buffer = scratch(hidden, 0 if in_place else most_rows * chunk)
    # A 16-bit dW is rounded once, after everything that adds to its chunk.
    staged = into.weight is not None and into.weight.dtype != accumulate
    staged = staged and (rows > tiling.row_block or gemm.gradient_dtype == accumulate or select is not None)
    dw_chunk = take(chunk * hidden.shape[1], accumulate, hidden.device).view(chunk, -1) if staged else None
    for first, last in tiling.columns(head.vocab):
        columns, w = (first, last), gemm.gradient_weight((first, last)) if dx is not None else None
        dw = None if into.weight is None else into.weight[first:last]
        total = dw if dw_chunk is None else dw_chunk[: last - first]
        begun = into.started and dw_chunk is None
        if total is not None and select is not None and not begun:
            total.zero_()
            begun = True
        for block in tiling.blocks(rows):
            known = 0 if kept is None else kept.count(block)
            if kept is not None and in_place:
                logits = kept.chunk(columns, block)
            else:
                logits = shaped(buffer, block.stop - block.start, last - first)
            if known < logits.shape[0]:
                gemm.logits(columns, slice(block.start + known, block.stop), logits[known:])
            if kept is not None and select is not None and not in_place:
                logits[:known].copy_(kept.chunk(columns, block))
            pieces = [(block, None)] if select is None else select.pieces(logits, columns, block)
            differentiate(logits, columns, block)
            if into.bias is not None:
                db = logits.sum(dim=0, dtype=accumulate)
                into.bias[first:last] += db if scale is None else db * scale
            for piece, chosen in pieces:
                x, d = gemm.gradient_hidden(piece), logits[piece.start - block.start : piece.stop - block.start]
                d = gemm.rounded(d if chosen is None else d.index_select(1, chosen))
                if dx is not None and w is not None:
                    w_piece = w if chosen is None else w.index_select(0, chosen)
                    if part is None:
                        dx[piece].addmm_(d, w_piece)
                    else:
                        dx[piece] += torch.mm(d, w_piece, out=part[: x.shape[0]])
                if total is not None:
                    # A staged chunk is scaled once, below.
                    factor = None if dw_chunk is not None else scale
                    add_product(total, d, x, fresh=not begun, scale=factor, rows=chosen)
                    begun = True
        if dw is not None and dw_chunk is not None and total is not None:
            if scale is not None:
                total.mul_(scale)
            dw.copy_(total.add_(dw) if into.started else total)
    into.started = True
    if dx is None:
        return None
    if scale is not None:
        dx *= scale
    return dx.to(hidden.dtype) if rounded else dx


def add_product(
    out: Tensor, d: Tensor, x: Tensor, *, fresh: bool, scale: Tensor | None = None, rows: Tensor | None = None
) -> None:
    """``out (+)= scale * d.T @ x``, into some ``rows`` of it where they are named; rounded once when ``out`` has the operands' dtype, summed
    in float32 when it is float32."""
    if rows is None and out.dtype == d.dtype and (fresh or scale is None):
        if not fresh:
            out.addmm_(d.t(), x)
        else:
            torch.mm(d.t(), x, out=out)
            if scale is not None:
                out.mul_(scale)
        return
    product = take(d.shape[1] * x.shape[1], d.dtype, d.device).view(d.shape[1], x.shape[1])
    torch.mm(d.t(), x, out=product)
    if scale is not None:
        product = product.to(out.dtype).mul_(scale)
    if rows is not None:
        out.index_add_(0, rows, product.to(out.dtype))
    elif fresh:
        out.copy_(product)
    else:
        out.add_(product)


def scaled_coefficients(head: Head, hidden: Tensor, *coefs: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The coefficients, and ``None``; for float16 gradient GEMMs divided by a power of two near the largest, and that power.

    float16 probabilities times a small coefficient would underflow, so the gradient GEMMs run on coefficients of about 1 and their results
    are multiplied by the power, exactly.
    """
    if gradient_dtype(hidden, head.weight) != torch.float16 or hidden.shape[0] == 0:
        return coefs, None
    largest = torch.stack([coef.abs().amax() for coef in coefs]).amax()
    scale = torch.exp2(torch.floor(torch.log2(largest.clamp_min(torch.finfo(largest.dtype).tiny))))
    return tuple(coef / scale for coef in coefs), scale
