"""Row statistics: fold a chunk of logits into each row's running log-sum-exp and target logit, and what else was asked for.

Inputs    ``logits [R, C]`` float32, bfloat16 or float16, contiguous rows at any row stride: vocabulary columns ``[col0, col0 + C)``
          ``targets [R]`` int64; a negative one marks an ignored row, whose logits are not read and whose state stays as it is
          ``row_scale [R]`` float32, if given: the row's own factor on ``z``
In place  ``m [R]``, ``s [R]``, ``zt [R]`` float32: a maximum, ``sum exp(z - m)``, the target's ``z`` (written by the chunk that holds it).
          Only if given, and compiled in only then: ``s2 [R] = sum exp(2 (z - m))``, ``sd [R] = sum exp(z - m) (z - m)``, ``total [R] = sum z``,
          ``top [R]`` with ``argmax [R]`` int64: the largest logit (negated where ``z`` falls with it) and its first column
Partials  :func:`row_partials` folds nothing: it writes ``m, s [sides, parts, R]`` of every part of every row, and ``zt [sides, R]`` (NaN for a
          target outside of the columns), of one matrix or of two of one shape, a policy's and a reference's, in one launch
Bytes     reads every logit of an active row once, and its target's once more; 8 bytes + the state per row; writes the state only
Values    ``z`` is the transformed logit (see ``logit_transform``), everything after the load is float32. A NaN or ``+inf`` makes ``s``
          NaN; while a row holds nothing but ``-inf`` it keeps ``m = -inf, s = 0``
Limits    ``R < 2^31``, ``C < 2^31 - 2^14``. 16-byte loads need a pointer, a row stride and a ``C`` that are multiples of 16 elements;
          anything else is correct and slower

One program per row, or, where there are fewer rows than multiprocessors, one for each of several parts of a row (see ``tiling.parts_of``):
then a second, small launch folds the partials into the state, part by part in ascending order.

A program walks its row in steps of ``LOADS x LANES`` columns. Each lane keeps its own maximum and sum over the ``LOADS`` columns it
sees per step: the loop has no communication between threads at all, for one more ``exp2`` per ``LOADS`` columns (the rescaling).
The lanes meet once, after the last step. The order of every sum is fixed, and there are no atomics: same input, same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logit_transform import LOG2E, transform_arguments, transformed
from .tiling import parts_of, tiling

_LOADS = 4  # 48 registers on sm_90 with bfloat16, 64 with s2
_LOADS_WITH_MORE = 2  # every further accumulator is one register per lane

# A lane starts here and not at -inf: every finite float32 is at least this, and it makes z - m well defined (-inf) for z = -inf.
LOWEST = tl.constexpr(-3.4028234663852886e38)

# exp is 0 this far down: a bound for z - m that makes 0, and not NaN, of 0 * -inf.
FAR = tl.constexpr(-1e4)

NOWHERE = tl.constexpr(0x7FFFFFFF)

_MERGED_ROWS = 128  # of a program that folds partials


@triton.jit
def moved(sd, s, step):
    """``sum exp(z - m) (z - m)`` with ``step`` added to every ``z - m`` but the one in ``exp``."""
    return sd + s * tl.maximum(step, FAR)


@triton.jit(do_not_specialize=["col0", "ignored"])
def _row_stats(
    x_ptr,
    stride,
    ref_ptr,
    ref_stride,
    targets_ptr,
    m_ptr,
    s_ptr,
    zt_ptr,
    s2_ptr,
    sd_ptr,
    total_ptr,
    top_ptr,
    argmax_ptr,
    columns,
    col0,
    scale,
    inner,
    cap,
    row_scale_ptr,
    ignored,
    width,
    TRANSFORM: tl.constexpr,
    RISING: tl.constexpr,
    MODE: tl.constexpr,
    LOADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """``MODE``: ``"fold"`` into the state; ``"parts"``: write the partials of the parts, ``width`` columns each; ``"raw"``: the same, of
    targets as the caller has them: ``ignored`` marks a row that is not read, any other outside of the columns gives NaN."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    if MODE == "raw":
        if target == ignored:
            return
    else:
        if target < 0:
            return
    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row)
        scale *= own
        cap *= own
    if ref_ptr is not None:  # noqa: SIM102 - known when compiling, the next is not
        if tl.program_id(2) == 1:
            x_ptr = ref_ptr
            stride = ref_stride
    x_ptr += row * stride
    begin = 0
    end = columns
    if MODE == "fold":
        at = row
        m_before = tl.load(m_ptr + row)
        s_before = tl.load(s_ptr + row)
    else:  # the state is empty, and what is written is the part's own
        zt_ptr += tl.program_id(2).to(tl.int64) * tl.num_programs(0)
        at = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * tl.num_programs(0) + row
        begin = tl.program_id(1) * width
        end = tl.minimum(begin + width, columns)
        m_before = LOWEST
        s_before = 0.0

    column = target - col0
    here = (column >= begin) & (column < end)
    x_target = tl.load(x_ptr + column, mask=here, other=0.0).to(tl.float32)
    z_target = transformed(x_target, scale, inner, cap, TRANSFORM)
    if MODE == "raw":
        outside = (column < 0) | (column >= columns)
        z_target = tl.where(outside, float("nan"), z_target)
        tl.store(zt_ptr + row, z_target, mask=here | (outside & (begin == 0)))
    else:
        tl.store(zt_ptr + row, z_target, mask=here)

    step = (tl.arange(0, LOADS) * LANES)[:, None] + tl.arange(0, LANES)[None, :]
    m = tl.full((LANES,), LOWEST, tl.float32)
    s = tl.zeros((LANES,), tl.float32)
    s2 = tl.zeros((LANES,), tl.float32)
    sd = tl.zeros((LANES,), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    top = tl.full((LANES,), float("-inf"), tl.float32)
    argmax = tl.full((LANES,), NOWHERE, tl.int32)
    for start in range(begin, end, LOADS * LANES):  # parts are whole steps, so that columns alone bounds the last one
        inside = start + step < columns
        x = tl.load(x_ptr + start + step, mask=inside, other=float("-inf")).to(tl.float32)
        z = transformed(x, scale, inner, cap, TRANSFORM)
        if total_ptr is not None:
            total += tl.sum(tl.where(inside, z, 0.0), axis=0)
        if TRANSFORM != "identity":  # neither a softcap nor a negative scale leaves the padding at -inf
            z = tl.where(inside, z, float("-inf"))
        if top_ptr is not None:
            height = x if RISING else tl.where(inside, -x, float("-inf"))
            highest = tl.max(height, axis=0)
            first = tl.min(tl.where(height == highest[None, :], start + step, NOWHERE), axis=0)
            argmax = tl.where(highest > top, first, argmax)
            top = tl.maximum(top, highest)
        # Triton's maximum passes over a NaN; z - m_new does not, so s becomes NaN.
        m_new = tl.maximum(m, tl.max(z, axis=0))
        d = z - m_new[None, :]
        e = tl.exp2(d * LOG2E)
        decay = tl.exp2((m - m_new) * LOG2E)
        if s2_ptr is not None:
            s2 = s2 * (decay * decay) + tl.sum(e * e, axis=0)
        if sd_ptr is not None:
            sd = decay * moved(sd, s, m - m_new) + tl.sum(e * tl.maximum(d, FAR), axis=0)
        s = s * decay + tl.sum(e, axis=0)
        m = m_new

    m_after = tl.maximum(m_before, tl.max(m, axis=0))
    decay = tl.exp2((m - m_after) * LOG2E)
    decay_before = tl.exp2((m_before - m_after) * LOG2E)
    s_after = s_before * decay_before + tl.sum(s * decay, axis=0)
    # A row with a finite logit has s >= 1 or nearly so: s = 0 means that there was none.
    tl.store(m_ptr + at, tl.where(s_after == 0.0, float("-inf"), m_after))
    tl.store(s_ptr + at, s_after)
    if s2_ptr is not None:
        chunk = tl.sum(s2 * (decay * decay), axis=0)
        if MODE == "fold":
            chunk += tl.load(s2_ptr + row) * (decay_before * decay_before)
        tl.store(s2_ptr + at, chunk)
    if sd_ptr is not None:
        chunk = tl.sum(decay * moved(sd, s, m - m_after), axis=0)
        if MODE == "fold":
            chunk += decay_before * moved(tl.load(sd_ptr + row), s_before, m_before - m_after)
        tl.store(sd_ptr + at, chunk)
    if total_ptr is not None:
        chunk = tl.sum(total, axis=0)
        if MODE == "fold":
            chunk += tl.load(total_ptr + row)
        tl.store(total_ptr + at, chunk)
    if top_ptr is not None:
        highest = tl.max(top, axis=0)
        first = tl.min(tl.where(top == highest, argmax, NOWHERE), axis=0)
        higher = True
        if MODE == "fold":
            higher = highest > tl.load(top_ptr + row)
        tl.store(argmax_ptr + at, col0 + first.to(tl.int64), mask=higher)
        tl.store(top_ptr + at, highest, mask=higher)


@triton.jit
def merged(m, s, m_part, s_part):
    """``(m, s)`` of a row of which ``m, s`` and ``m_part, s_part`` are known; ``m`` is at least ``LOWEST``, ``m_part`` may be ``-inf``."""
    m_new = tl.maximum(m, m_part)
    return m_new, s * tl.exp2((m - m_new) * LOG2E) + s_part * tl.exp2((m_part - m_new) * LOG2E)


@triton.jit(do_not_specialize=["rows", "parts"])
def _merge_row_stats(
    targets_ptr,
    m_ptr,
    s_ptr,
    s2_ptr,
    sd_ptr,
    total_ptr,
    top_ptr,
    argmax_ptr,
    part_m_ptr,
    part_s_ptr,
    part_s2_ptr,
    part_sd_ptr,
    part_total_ptr,
    part_top_ptr,
    part_argmax_ptr,
    rows,
    parts,
    BLOCK: tl.constexpr,
):
    """Fold partials ``[parts, R]`` into the state ``[R]``."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    inside &= tl.load(targets_ptr + row, mask=inside, other=-1) >= 0
    m = tl.maximum(tl.load(m_ptr + row, mask=inside, other=0.0), LOWEST)
    s = tl.load(s_ptr + row, mask=inside, other=0.0)
    if s2_ptr is not None:
        s2 = tl.load(s2_ptr + row, mask=inside, other=0.0)
    if sd_ptr is not None:
        sd = tl.load(sd_ptr + row, mask=inside, other=0.0)
    if total_ptr is not None:
        total = tl.load(total_ptr + row, mask=inside, other=0.0)
    if top_ptr is not None:
        top = tl.load(top_ptr + row, mask=inside, other=0.0)
        argmax = tl.load(argmax_ptr + row, mask=inside, other=0)
    for part in range(parts):
        at = part * rows.to(tl.int64) + row
        m_part = tl.load(part_m_ptr + at, mask=inside, other=0.0)
        s_part = tl.load(part_s_ptr + at, mask=inside, other=0.0)
        m_new, s_new = merged(m, s, m_part, s_part)
        decay = tl.exp2((m - m_new) * LOG2E)
        decay_part = tl.exp2((m_part - m_new) * LOG2E)
        if s2_ptr is not None:
            found = tl.load(part_s2_ptr + at, mask=inside, other=0.0)
            s2 = s2 * (decay * decay) + found * (decay_part * decay_part)
        if sd_ptr is not None:
            found = tl.load(part_sd_ptr + at, mask=inside, other=0.0)
            sd = decay * moved(sd, s, m - m_new) + decay_part * moved(found, s_part, m_part - m_new)
        if total_ptr is not None:
            total += tl.load(part_total_ptr + at, mask=inside, other=0.0)
        if top_ptr is not None:
            found = tl.load(part_top_ptr + at, mask=inside, other=0.0)
            argmax = tl.where(found > top, tl.load(part_argmax_ptr + at, mask=inside, other=0), argmax)
            top = tl.maximum(top, found)
        m = m_new
        s = s_new
    tl.store(m_ptr + row, tl.where(s == 0.0, float("-inf"), m), mask=inside)
    tl.store(s_ptr + row, s, mask=inside)
    if s2_ptr is not None:
        tl.store(s2_ptr + row, s2, mask=inside)
    if sd_ptr is not None:
        tl.store(sd_ptr + row, sd, mask=inside)
    if total_ptr is not None:
        tl.store(total_ptr + row, total, mask=inside)
    if top_ptr is not None:
        tl.store(top_ptr + row, top, mask=inside)
        tl.store(argmax_ptr + row, argmax, mask=inside)


def row_stats(
    logits: Tensor,
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
    multiprocessors: int = 0,
) -> None:
    """Launch over all rows of ``logits [R, C]``; the state, each ``[R]``, is updated in place. See the top of this file.

    ``multiprocessors`` of the device decide into how many parts rows are split; 0: not known, rows stay whole.
    """
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    loads = _LOADS if sd is None and total is None and top is None else _LOADS_WITH_MORE
    lanes, num_warps = tiling(columns, logits.element_size(), loads)
    parts, width = parts_of(rows, columns, loads * lanes, multiprocessors)
    state = (m, s, s2, sd, total, top, argmax)
    written = state
    if parts > 1:
        written = tuple(None if x is None else torch.empty(parts, rows, dtype=x.dtype, device=x.device) for x in state)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_stats[(rows, parts)](
            logits,
            logits.stride(0),
            None,
            0,
            targets,
            *written[:2],
            zt,
            *written[2:],
            columns,
            col0,
            **transform_arguments(scale, cap, row_scale),
            ignored=-1,
            width=width,
            RISING=scale > 0.0,
            MODE="fold" if parts == 1 else "parts",
            LOADS=loads,
            LANES=lanes,
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
        if parts > 1:
            _merge_row_stats[(triton.cdiv(rows, _MERGED_ROWS),)](
                targets, *state, *written, rows, parts, BLOCK=_MERGED_ROWS, num_warps=4, enable_fp_fusion=True
            )


def row_partials(
    logits: Tensor,
    reference: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
    multiprocessors: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The partials ``(m, s, zt)`` of ``logits [R, C]`` and, if given, of ``reference [R, C]`` of the same dtype, in one launch.

    ``m, s [sides, parts, R]`` and ``zt [sides, R]`` are float32, with the policy first; nothing is written for rows whose target is
    ``ignore_index``. ``C`` is the whole vocabulary. See the top of this file.
    """
    rows, columns = logits.shape
    sides = 1 if reference is None else 2
    lanes, num_warps = tiling(columns, logits.element_size(), _LOADS)
    parts, width = parts_of(sides * rows, columns, _LOADS * lanes, multiprocessors)
    m, s = (torch.empty(sides, parts, rows, dtype=torch.float32, device=logits.device) for _ in range(2))
    zt = torch.empty(sides, rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return m, s, zt
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_stats[(rows, parts, sides)](
            logits,
            logits.stride(0),
            reference,
            0 if reference is None else reference.stride(0),
            targets,
            m,
            s,
            zt,
            *[None] * 5,
            columns,
            0,
            **transform_arguments(scale, cap, row_scale),
            ignored=ignore_index,
            width=width,
            RISING=scale > 0.0,
            MODE="raw",
            LOADS=_LOADS,
            LANES=lanes,
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
    return m, s, zt
