"""Row statistics: fold a chunk of logits into each row's running log-sum-exp and target logit.

Inputs    ``logits [R, C]`` float32, bfloat16 or float16, contiguous rows at any row stride: vocabulary columns ``[col0, col0 + C)``
          ``targets [R]`` int64; a negative one marks an ignored row, whose logits are not read and whose state stays as it is
In place  ``m [R]``, ``s [R]``, ``zt [R]`` float32: a maximum, ``sum exp(z - m)``, the target's ``z`` (written by the chunk that holds it)
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

_LOADS = 4  # 48 registers on sm_90 with bfloat16

# A lane starts here and not at -inf: every finite float32 is at least this, and it makes z - m well defined (-inf) for z = -inf.
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit(do_not_specialize=["col0"])
def _row_stats(
    x_ptr,
    stride,
    targets_ptr,
    m_ptr,
    s_ptr,
    zt_ptr,
    columns,
    col0,
    scale,
    inner,
    cap,
    TRANSFORM: tl.constexpr,
    LOADS: tl.constexpr,
    LANES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    if target < 0:
        return
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
    for start in range(0, columns, LOADS * LANES):
        inside = start + step < columns
        x = tl.load(x_ptr + start + step, mask=inside, other=float("-inf")).to(tl.float32)
        z = transformed(x, scale, inner, cap, TRANSFORM)
        if TRANSFORM != "identity":  # neither a softcap nor a negative scale leaves the padding at -inf
            z = tl.where(inside, z, float("-inf"))
        # Triton's maximum passes over a NaN; z - m_new does not, so s becomes NaN.
        m_new = tl.maximum(m, tl.max(z, axis=0))
        s = s * tl.exp2((m - m_new) * LOG2E) + tl.sum(tl.exp2((z - m_new[None, :]) * LOG2E), axis=0)
        m = m_new

    m_after = tl.maximum(m_before, tl.max(m, axis=0))
    s_chunk = tl.sum(s * tl.exp2((m - m_after) * LOG2E), axis=0)
    s_after = s_before * tl.exp2((m_before - m_after) * LOG2E) + s_chunk
    # A row with a finite logit has s >= 1 or nearly so: s = 0 means that there was none.
    tl.store(m_ptr + row, tl.where(s_after == 0.0, float("-inf"), m_after))
    tl.store(s_ptr + row, s_after)


def row_stats(
    logits: Tensor,
    targets: Tensor,
    m: Tensor,
    s: Tensor,
    zt: Tensor,
    *,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
) -> None:
    """Launch over all rows of ``logits [R, C]``; ``m``, ``s`` and ``zt`` ``[R]`` are updated in place. See the top of this file."""
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    lanes, num_warps = tiling(columns, logits.element_size(), _LOADS)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_stats[(rows,)](
            logits,
            logits.stride(0),
            targets,
            m,
            s,
            zt,
            columns,
            col0,
            **transform_arguments(scale, cap),
            LOADS=_LOADS,
            LANES=lanes,
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
