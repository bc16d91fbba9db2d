"""Row statistics: fold a chunk of logits into each row's running log-sum-exp and target logit, and what else was asked for.

Inputs    ``logits [R, C]`` float32, bfloat16 or float16, contiguous rows at any row stride: vocabulary columns ``[col0, col0 + C)``
          ``targets [R]`` int64; a negative one marks an ignored row, whose logits are not read and whose state stays as it is
          ``row_scale [R]`` float32, if given: the row's own factor on ``z``
In place  ``m [R]``, ``s [R]``, ``zt [R]`` float32: a maximum, ``sum exp(z - m)``, the target's ``z`` (written by the chunk that holds it).
          Only if given, and compiled in only then: ``s2 [R] = sum exp(2 (z - m))``, ``sd [R] = sum exp(z - m) (z - m)``, ``total [R] = sum z``,
          ``top [R]`` with ``argmax [R]`` int64: the largest logit (negated where ``z`` falls with it) and its first column
Bytes     reads every logit of an active row once, and its target's once more; 8 bytes + the state per row; writes the state only
Values    ``z`` is the transformed logit (see ``logit_transform``), everything after the load is float32. A NaN or ``+inf`` makes ``s``
          NaN; while a row holds nothing but ``-inf`` it keeps ``m = -inf, s = 0``
Limits    ``R < 2^31``, ``C < 2^31 - 2^14``. 16-byte loads need a pointer, a row stride and a ``C`` that are multiples of 16 elements;
          anything else is correct and slower. One program per row, so fewer rows than multiprocessors leave some of these idle

A program walks its row in steps of ``LOADS x LANES`` columns. Each lane keeps its own maximum and sum over the ``LOADS`` columns it
sees per step: the loop has no communication between threads at all, for one more ``exp2`` per ``LOADS`` columns (the rescaling).
The lanes meet once, after the last step. The order of every sum is fixed, and there are no atomics: same input, same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logit_transform import LOG2E, transform_arguments, transformed
from .tiling import tiling

_LOADS = 4  # 48 registers on sm_90 with bfloat16, 64 with s2
_LOADS_WITH_MORE = 2  # every further accumulator is one register per lane

# A lane starts here and not at -inf: every finite float32 is at least this, and it makes z - m well defined (-inf) for z = -inf.
LOWEST = tl.constexpr(-3.4028234663852886e38)

# exp is 0 this far down: a bound for z - m that makes 0, and not NaN, of 0 * -inf.
FAR = tl.constexpr(-1e4)

NOWHERE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def moved(sd, s, step):
    """``sum exp(z - m) (z - m)`` with ``step`` added to every ``z - m`` but the one in ``exp``."""
    return sd + s * tl.maximum(step, FAR)


@triton.jit(do_not_specialize=["col0"])
def _row_stats(
    x_ptr,
    stride,
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
    TRANSFORM: tl.constexpr,
    RISING: tl.constexpr,
    LOADS: tl.constexpr,
    LANES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    if target < 0:
        return
    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row)
        scale *= own
        cap *= own
    x_ptr += row * stride
    m_before = tl.load(m_ptr + row)
    s_before = tl.load(s_ptr + row)

    column = target - col0
    here = (column >= 0) & (column < columns)
    x_target = tl.load(x_ptr + column, mask=here, other=0.0).to(tl.float32)
    tl.store(zt_ptr + row, transformed(x_target, scale, inner, cap, TRANSFORM), mask=here)

    step = (tl.arange(0, LOADS) * LANES)[:, None] + tl.arange(0, LANES)[None, :]
    m = tl.full((LANES,), LOWEST, tl.float32)
    s = tl.zeros((LANES,), tl.float32)
    s2 = tl.zeros((LANES,), tl.float32)
    sd = tl.zeros((LANES,), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    top = tl.full((LANES,), float("-inf"), tl.float32)
    argmax = tl.full((LANES,), NOWHERE, tl.int32)
    for start in range(0, columns, LOADS * LANES):
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
    tl.store(m_ptr + row, tl.where(s_after == 0.0, float("-inf"), m_after))
    tl.store(s_ptr + row, s_after)
    if s2_ptr is not None:
        chunk = tl.sum(s2 * (decay * decay), axis=0)
        tl.store(s2_ptr + row, tl.load(s2_ptr + row) * (decay_before * decay_before) + chunk)
    if sd_ptr is not None:
        chunk = tl.sum(decay * moved(sd, s, m - m_after), axis=0)
        tl.store(sd_ptr + row, decay_before * moved(tl.load(sd_ptr + row), s_before, m_before - m_after) + chunk)
    if total_ptr is not None:
        tl.store(total_ptr + row, tl.load(total_ptr + row) + tl.sum(total, axis=0))
    if top_ptr is not None:
        highest = tl.max(top, axis=0)
        first = tl.min(tl.where(top == highest, argmax, NOWHERE), axis=0)
        higher = highest > tl.load(top_ptr + row)
        tl.store(argmax_ptr + row, col0 + first.to(tl.int64), mask=higher)
        tl.store(top_ptr + row, highest, mask=higher)


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
) -> None:
    """Launch over all rows of ``logits [R, C]``; the state, each ``[R]``, is updated in place. See the top of this file."""
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    loads = _LOADS if sd is None and total is None and top is None else _LOADS_WITH_MORE
    lanes, num_warps = tiling(columns, logits.element_size(), loads)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_stats[(rows,)](
            logits,
            logits.stride(0),
            targets,
            m,
            s,
            zt,
            s2,
            sd,
            total,
            top,
            argmax,
            columns,
            col0,
            **transform_arguments(scale, cap, row_scale),
            RISING=scale > 0.0,
            LOADS=loads,
            LANES=lanes,
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
