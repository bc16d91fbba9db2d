"""Statistics of a linear head: log-sum-exp, target logit and more of ``hidden @ weight.T + bias`` with no logit in memory.

Inputs    ``hidden [T, H]`` and ``weight [V, H]`` float32, bfloat16 or float16 in any combination, contiguous rows at any row stride: the
          weight's rows are vocabulary columns ``[col0, col0 + V)``; ``bias [V]`` of any of these dtypes, or none
          ``targets [T]`` int64; a negative one marks an ignored row, whose hidden states are not read and whose results stay as they are
          ``row_scale [T]`` float32, if given: the row's own factor on ``z``
Partials  ``m``, ``s`` and, only if asked for and compiled in only then, ``s2``, ``sd``, ``total``, ``top``, ``argmax``: the fields of
          ``row_stats``, each ``[S, T]``, one row per *segment* of the vocabulary (see :class:`Partials`). ``zt [T]`` is written
          directly, by the one program whose segment holds the target
In place  the state of ``row_stats``, each ``[T]``, into which :func:`merge_partials` folds the partials of one launch. Folding those of several
          shards of the vocabulary one after the other, lowest columns first, gives the statistics of the whole
Kept      if asked for, what the backward needs of the logits of all rows: ``exp(z - reference)`` in the operands' 16-bit dtype beside its
          reference in float32, one per row and :data:`SLOT` columns; or the raw logits in float32 (see ``kept_layout``)
Bytes     reads the head once per ``group`` tiles of rows and the hidden states once per tile of columns, from the L2 cache but for
          the first time; stores 8 bytes per row and segment (4 more for each further field). Nothing of size T x V is stored, but for
          what is kept: 2 + 4 / SLOT bytes per logit, or 4
Values    ``z`` is the transformed logit (see ``logit_transform``); logits, softmax and sums are float32 and never rounded to 16 bits. The error
          of a logit is that of a float32 sum of H products. NaN and infinities as in ``row_stats``
Limits    ``T, V, H < 2^31``. 16-byte loads need pointers and row strides that are multiples of 16 bytes, and an ``H`` that the tile's depth divides or
          that is a multiple of 16; anything else is correct and slower. float32 operands run without tensor cores

A program makes the logits of one tile of rows over one segment, tile by tile, and carries the rows' running maxima and sums in registers. A
second kernel merges the segments. The segments depend on V alone and the tiles on the GPU, H and what is asked for (``linear_tiling``): a
row's bits do not depend on which rows run beside it, nor on the order of the programs. No locks, no atomics.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kept_layout import SLOT
from .linear_tiling import is_heavy, linear_tiling, segment_columns
from .logit_transform import LOG2E, transform_arguments, transformed
from .row_stats import FAR, LOWEST, NOWHERE, moved
from .tile_product import is_narrow, product_dtype, tile_of_program, tile_product

_MERGE_ELEMENTS = 4096  # of one field that a program of the merge holds


@dataclass(frozen=True)
class Partials:
    """Statistics of T rows over S segments of a range of vocabulary columns, to be folded into a state by :func:`merge_partials`.

    Each field is ``[S, T]`` float32 (``argmax``: int32, the column in the whole vocabulary), undefined on ignored rows, and as in
    ``row_stats`` but for rows without a finite logit: ``m`` is then the lowest finite number and ``s`` 0. Optional ones are ``None``.
    """

    m: Tensor
    s: Tensor
    s2: Tensor | None = None
    sd: Tensor | None = None
    total: Tensor | None = None
    top: Tensor | None = None
    argmax: Tensor | None = None


@triton.jit(do_not_specialize=["col0"])
def _linear_stats(
    x_ptr,
    x_stride,
    w_ptr,
    w_stride,
    bias_ptr,
    targets_ptr,
    zt_ptr,
    m_ptr,
    s_ptr,
    s2_ptr,
    sd_ptr,
    total_ptr,
    top_ptr,
    argmax_ptr,
    kept_ptr,
    kept_stride,
    reference_ptr,
    reference_stride,
    rows,
    columns,
    width,
    segment,
    col0,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    RISING: tl.constexpr,
    EVEN: tl.constexpr,
    DTYPE: tl.constexpr,
    SLOT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    row_tile, part = tile_of_program(tl.cdiv(rows, ROWS), tl.cdiv(columns, segment), GROUP)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    target = tl.load(targets_ptr + row, mask=row < rows, other=-1)
    live = target >= 0
    if tl.max(live.to(tl.int32), axis=0) == 0:
        return
    # A target of another shard, or outside the vocabulary, matches no column.
    target = tl.where((target >= col0) & (target < col0 + columns), target - col0, -1).to(tl.int32)
    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row, mask=live, other=1.0)[:, None]
        scale *= own
        cap *= own

    m = tl.full((ROWS,), LOWEST, tl.float32)
    s = tl.zeros((ROWS,), tl.float32)
    zt = tl.zeros((ROWS,), tl.float32)
    s2 = tl.zeros((ROWS,), tl.float32)
    sd = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    argmax = tl.full((ROWS,), NOWHERE, tl.int32)
    first = part * segment
    last = tl.minimum(first + segment, columns)
    for start in range(first, last, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        inside = j < columns
        x = tile_product(
            x_ptr, x_stride, row, live, w_ptr, w_stride, j, inside, width, EVEN, DTYPE, ROWS, COLUMNS, DEPTH
        )
        if bias_ptr is not None:
            x += tl.load(bias_ptr + j, mask=inside, other=0.0).to(tl.float32)[None, :]
        if top_ptr is not None:
            height = tl.where(inside[None, :], x if RISING else -x, float("-inf"))
            highest = tl.max(height, axis=1)
            nearest = tl.min(tl.where(height == highest[:, None], j[None, :], NOWHERE), axis=1)
            argmax = tl.where(highest > top, nearest, argmax)
            top = tl.maximum(top, highest)
        z = transformed(x, scale, inner, cap, TRANSFORM)
        if total_ptr is not None:
            total += tl.sum(tl.where(inside[None, :], z, 0.0), axis=1)
        z = tl.where(inside[None, :], z, float("-inf"))
        here = (target >= start) & (target < start + COLUMNS)
        if tl.max(here.to(tl.int32), axis=0) != 0:
            zt += tl.sum(tl.where(j[None, :] == target[:, None], z, 0.0), axis=1)
        # Triton's maximum passes over a NaN; z - m_new does not, so s becomes NaN.
        m_new = tl.maximum(m, tl.max(z, axis=1))
        d = z - m_new[:, None]
        e = tl.exp2(d * LOG2E)
        decay = tl.exp2((m - m_new) * LOG2E)
        if s2_ptr is not None:
            s2 = s2 * (decay * decay) + tl.sum(e * e, axis=1)
        if sd_ptr is not None:
            sd = decay * moved(sd, s, m - m_new) + tl.sum(e * tl.maximum(d, FAR), axis=1)
        s = s * decay + tl.sum(e, axis=1)
        m = m_new
        if kept_ptr is not None:
            kept = kept_ptr + row.to(tl.int64)[:, None] * kept_stride + j[None, :]
            value = x if reference_ptr is None else e
            tl.store(kept, value.to(kept_ptr.dtype.element_ty), mask=live[:, None] & inside[None, :])
            if reference_ptr is not None:
                slot = start // SLOT + tl.arange(0, COLUMNS // SLOT)
                places = reference_ptr + row.to(tl.int64)[:, None] * reference_stride + slot[None, :]
                known = live[:, None] & (slot < reference_stride)[None, :]
                tl.store(places, tl.broadcast_to(m_new[:, None], (ROWS, COLUMNS // SLOT)), mask=known)

    tl.store(zt_ptr + row, zt, mask=live & (target >= first) & (target < last))
    place = part.to(tl.int64) * rows + row
    tl.store(m_ptr + place, m, mask=live)
    tl.store(s_ptr + place, s, mask=live)
    if s2_ptr is not None:
        tl.store(s2_ptr + place, s2, mask=live)
    if sd_ptr is not None:
        tl.store(sd_ptr + place, sd, mask=live)
    if total_ptr is not None:
        tl.store(total_ptr + place, total, mask=live)
    if top_ptr is not None:
        tl.store(top_ptr + place, top, mask=live)
        tl.store(argmax_ptr + place, argmax + col0, mask=live)


@triton.jit
def _merge_partials(
    targets_ptr,
    m_ptr,
    s_ptr,
    s2_ptr,
    sd_ptr,
    total_ptr,
    top_ptr,
    argmax_ptr,
    into_m_ptr,
    into_s_ptr,
    into_s2_ptr,
    into_sd_ptr,
    into_total_ptr,
    into_top_ptr,
    into_argmax_ptr,
    rows,
    segments,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = tl.load(targets_ptr + row, mask=row < rows, other=-1) >= 0
    part = tl.arange(0, SEGMENTS)
    place = part.to(tl.int64)[:, None] * rows + row[None, :]
    known = (part < segments)[:, None] & live[None, :]
    m = tl.load(m_ptr + place, mask=known, other=LOWEST)
    s = tl.load(s_ptr + place, mask=known, other=0.0)
    m_before = tl.load(into_m_ptr + row, mask=live, other=0.0)
    s_before = tl.load(into_s_ptr + row, mask=live, other=0.0)

    m_after = tl.maximum(m_before, tl.max(m, axis=0))
    decay = tl.exp2((m - m_after[None, :]) * LOG2E)
    decay_before = tl.exp2((m_before - m_after) * LOG2E)
    s_after = s_before * decay_before + tl.sum(s * decay, axis=0)
    # A row with a finite logit has s >= 1 or nearly so: s = 0 means that there was none.
    tl.store(into_m_ptr + row, tl.where(s_after == 0.0, float("-inf"), m_after), mask=live)
    tl.store(into_s_ptr + row, s_after, mask=live)
    if s2_ptr is not None:
        s2 = tl.load(s2_ptr + place, mask=known, other=0.0)
        before = tl.load(into_s2_ptr + row, mask=live, other=0.0)
        after = before * (decay_before * decay_before) + tl.sum(s2 * (decay * decay), axis=0)
        tl.store(into_s2_ptr + row, after, mask=live)
    if sd_ptr is not None:
        sd = tl.load(sd_ptr + place, mask=known, other=0.0)
        before = tl.load(into_sd_ptr + row, mask=live, other=0.0)
        after = decay_before * moved(before, s_before, m_before - m_after)
        after += tl.sum(decay * moved(sd, s, m - m_after[None, :]), axis=0)
        tl.store(into_sd_ptr + row, after, mask=live)
    if total_ptr is not None:
        total = tl.load(total_ptr + place, mask=known, other=0.0)
        before = tl.load(into_total_ptr + row, mask=live, other=0.0)
        tl.store(into_total_ptr + row, before + tl.sum(total, axis=0), mask=live)
    if top_ptr is not None:
        top = tl.load(top_ptr + place, mask=known, other=float("-inf"))
        column = tl.load(argmax_ptr + place, mask=known, other=NOWHERE)
        highest = tl.max(top, axis=0)
        nearest = tl.min(tl.where(top == highest[None, :], column, NOWHERE), axis=0)
        higher = live & (highest > tl.load(into_top_ptr + row, mask=live, other=0.0))
        tl.store(into_argmax_ptr + row, nearest.to(tl.int64), mask=higher)
        tl.store(into_top_ptr + row, highest, mask=higher)


def linear_partials(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    zt: Tensor,
    *,
    s2: bool = False,
    sd: bool = False,
    total: bool = False,
    top: bool = False,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
    kept: tuple[Tensor, Tensor | None] | None = None,
    segment: int | None = None,
) -> Partials:
    """Launch over all of ``hidden [T, H]`` and ``weight [V, H]``, T, V and H at least 1. See the top of this file.

    Args:
        hidden: ``[T, H]``.
        weight: ``[V, H]``, vocabulary columns ``[col0, col0 + V)``.
        bias: ``[V]`` or ``None``.
        targets: ``[T]``.
        zt: ``[T]``, written where the target is among these columns.
        s2: whether that field is wanted, as each of the next.
        sd: likewise.
        total: likewise.
        top: with ``argmax``.
        col0: of the weight's first row.
        scale: see ``logit_transform``.
        cap: likewise.
        row_scale: ``[T]``.
        kept: the views of a ``KeptLayout`` of these T rows and V columns, to be written; ``None`` to keep nothing.
        segment: columns per program, a multiple of the tile's; ``None`` for those of :func:`segment_columns`.
    """
    (rows, width), columns = hidden.shape, weight.shape[0]
    tile = linear_tiling(is_narrow(hidden, weight), is_heavy(width, cap, sd or total or top))
    segment = segment or segment_columns(columns)
    segments = triton.cdiv(columns, segment)

    def field(wanted: bool, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return torch.empty(segments, rows, dtype=dtype, device=hidden.device) if wanted else None

    m, s = (torch.empty(segments, rows, dtype=torch.float32, device=hidden.device) for _ in range(2))
    found = Partials(m, s, field(s2), field(sd), field(total), field(top), field(top, torch.int32))
    values, references = kept or (None, None)
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        _linear_stats[(triton.cdiv(rows, tile.rows) * segments,)](
            hidden,
            hidden.stride(0),
            weight,
            weight.stride(0),
            bias,
            targets,
            zt,
            *vars(found).values(),
            values,
            0 if values is None else values.stride(0),
            references,
            0 if references is None else references.stride(0),
            rows,
            columns,
            width,
            segment,
            col0,
            **transform_arguments(scale, cap, row_scale),
            RISING=scale > 0.0,
            EVEN=width % tile.depth == 0,
            DTYPE=product_dtype(hidden, weight),
            SLOT=SLOT,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            GROUP=tile.group,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,
        )
    return found


def merge_partials(
    partials: Partials,
    targets: Tensor,
    m: Tensor,
    s: Tensor,
    *,
    s2: Tensor | None = None,
    sd: Tensor | None = None,
    total: Tensor | None = None,
    top: Tensor | None = None,
    argmax: Tensor | None = None,
) -> None:
    """Fold partials into the state, each ``[T]``, in place; the fields of both are the same. One read of the partials."""
    segments, rows = partials.m.shape
    padded = triton.next_power_of_2(segments)
    block = max(_MERGE_ELEMENTS // padded, 1)
    with torch.cuda.device_of(targets):
        _merge_partials[(triton.cdiv(rows, block),)](
            targets,
            *vars(partials).values(),
            m,
            s,
            s2,
            sd,
            total,
            top,
            argmax,
            rows,
            segments,
            SEGMENTS=padded,
            ROWS=block,
            num_warps=4,
            enable_fp_fusion=True,
        )


def linear_stats(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    m: Tensor,
    s: Tensor,
    zt: Tensor,
    *,
    s2: Tensor | None = None,
    sd: Tensor | None = None,
    total: Tensor | None = None,
    top: Tensor | None = None,
    argmax: Tensor | None = None,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
    kept: tuple[Tensor, Tensor | None] | None = None,
    segment: int | None = None,
) -> None:
    """Fold all columns of ``weight`` into the state, each ``[T]``, in place: :func:`linear_partials`, then :func:`merge_partials`."""
    if hidden.shape[0] == 0:
        return
    wanted = {"s2": s2 is not None, "sd": sd is not None, "total": total is not None, "top": top is not None}
    options = {"col0": col0, "scale": scale, "cap": cap, "row_scale": row_scale, "kept": kept, "segment": segment}
    partials = linear_partials(hidden, weight, bias, targets, zt, **wanted, **options)
    merge_partials(partials, targets, m, s, s2=s2, sd=sd, total=total, top=top, argmax=argmax)
