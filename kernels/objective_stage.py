"""The objective stage: partial row statistics of K packed sequences become the loss, and the coefficient of every token's gradient.

Inputs    ``m, s [sides, parts, T]``, ``zt [sides, T]`` float32 of ``row_stats.row_partials``: the policy's, and the reference's if it has logits
          ``targets [T]`` int64, ``ignored`` on rows that count for nothing; ``cu_seqlens [K+1]`` int32 from 0 to T
          ``weights [T]``, if given: of the tokens in the sequence sums. A precomputed reference, if given: ``[T]`` or ``[K]``
          data ``x0, x1, ...``: ``[K]``, of a token head also ``[T]``; of a pair the chosen sequence's and the rejected one's
          ``number``: one element, the number of the whole call that the head reads; ``divisors [K]``, for a token head
Outputs   ``loss`` (one element), ``coef [T]``, ``lse [T]``, ``logps [T]`` (and ``ref_logps [T]`` of a reference with logits) float32, 0 on ignored rows;
          ``losses [items]``, ``sums [2, K]`` float64: of policy and reference
Bytes     per token 8 of the partials of each part and 4 of ``zt``, for each side; 8 of its target, which a head of sequences reads twice;
          writes 12, and 4 more of a reference with logits. O(T): no logit is read here
Values    A token's log-prob is float32, ``(zt - m) - log s``. Sums, the head and the mean are float64: with K numbers this costs nothing, and
          margins are small differences of large sums. Where policy and reference hold the same numbers a margin is exactly 0
Limits    ``T < 2^31``; a head of ``objective_heads``, given as a constexpr. Boundaries outside of the rows are never followed

One program does it all, a block of items at a time, each item's tokens along the other axis of the block: a loss is one number, which without
atomics only one program can write, and what it reads is a few bytes per token where the logits are a few hundred thousand. A head is
computed between two walks over an item's tokens, one that sums and one that spreads. The order of every sum is fixed.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .head import Head
from .row_stats import LOWEST, merged

_BLOCK = 1024
_MOST_ITEMS = 16
_WARPS = 16  # two tokens per thread: with four, whose arithmetic is float64, some GPUs run out of registers


@triton.jit
def token_logps(m_ptr, s_ptr, zt_ptr, at, active, tokens, parts):
    """``(log-prob, log-sum-exp)`` of the rows ``at`` where ``active``, 0 elsewhere."""
    m = tl.full(at.shape, LOWEST, tl.float32)
    s = tl.zeros(at.shape, tl.float32)
    for part in range(parts):
        offset = at + part * tokens.to(tl.int64)
        m, s = merged(
            m, s, tl.load(m_ptr + offset, mask=active, other=0.0), tl.load(s_ptr + offset, mask=active, other=1.0)
        )
    log_s = tl.log(s)
    zt = tl.load(zt_ptr + at, mask=active, other=0.0)
    return tl.where(active, (zt - m) - log_s, 0.0), tl.where(active, m + log_s, 0.0)


@triton.jit
def bounds(cu_ptr, sequence, live, tokens):
    """First row of each sequence and the one after its last; both 0 where there is no sequence."""
    begin = tl.load(cu_ptr + sequence, mask=live, other=0)
    end = tl.load(cu_ptr + sequence + 1, mask=live, other=0)
    return tl.maximum(begin, 0).to(tl.int64), tl.minimum(end, tokens).to(tl.int64)


@triton.jit
def rows_of(targets_ptr, begin, end, start, ignored, TOKENS: tl.constexpr):
    """Rows ``[items, TOKENS]`` of a block, which of them exist, and which of these are not ignored."""
    at = (begin + start)[:, None] + tl.arange(0, TOKENS)[None, :]
    inside = at < end[:, None]
    target = tl.load(targets_ptr + at, mask=inside, other=0)
    return at, inside, inside & (target != ignored)


@triton.jit
def reference_of(m_ptr, s_ptr, zt_ptr, ref_ptr, at, active, tokens, parts, REFERENCE: tl.constexpr):
    """The reference's token log-probs, 0 where they are not known or not ``active``."""
    if REFERENCE == "logits":
        side = parts * tokens.to(tl.int64)
        found, _ = token_logps(m_ptr + side, s_ptr + side, zt_ptr + tokens, at, active, tokens, parts)
    elif REFERENCE == "tokens":
        found = tl.load(ref_ptr + at, mask=active, other=0.0)
    else:
        found = tl.zeros(at.shape, tl.float32)
    return found


@triton.jit
def weighed(values, weights_ptr, at, active):
    """float64 values times the tokens' weights; 0 where not ``active``."""
    values = values.to(tl.float64)
    if weights_ptr is not None:
        values *= tl.load(weights_ptr + at, mask=active, other=0.0)
    return tl.where(active, values, 0.0)


@triton.jit
def sequence_sums(
    m_ptr, s_ptr, zt_ptr, targets_ptr, cu_ptr, weights_ptr, ref_ptr, sums_ptr, lse_ptr, logps_ptr, ref_logps_ptr,
    sequence, live, tokens, sequences, parts, ignored,
    REFERENCE: tl.constexpr, ITEMS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Policy and reference sums and the lengths ``[ITEMS]``; log-sum-exp and log-probs of the rows on the way."""
    begin, end = bounds(cu_ptr, sequence, live, tokens)
    policy = tl.zeros((ITEMS, TOKENS), tl.float64)
    reference = tl.zeros((ITEMS, TOKENS), tl.float64)
    count = tl.zeros((ITEMS, TOKENS), tl.int32)
    for start in range(0, tl.max(end - begin), TOKENS):
        at, inside, active = rows_of(targets_ptr, begin, end, start, ignored, TOKENS)
        logps, lse = token_logps(m_ptr, s_ptr, zt_ptr, at, active, tokens, parts)
        tl.store(lse_ptr + at, lse, mask=inside)
        tl.store(logps_ptr + at, logps, mask=inside)
        policy += weighed(logps, weights_ptr, at, active)
        if REFERENCE == "logits" or REFERENCE == "tokens":
            near = reference_of(m_ptr, s_ptr, zt_ptr, ref_ptr, at, active, tokens, parts, REFERENCE)
            if ref_logps_ptr is not None:
                tl.store(ref_logps_ptr + at, near, mask=inside)
            reference += weighed(near, weights_ptr, at, active)
        count += active.to(tl.int32)
    policy_sum = tl.sum(policy, axis=1)
    if REFERENCE == "sequences":
        reference_sum = tl.load(ref_ptr + sequence, mask=live, other=0.0).to(tl.float64)
    else:
        reference_sum = tl.sum(reference, axis=1)
    tl.store(sums_ptr + sequence, policy_sum, mask=live)
    tl.store(sums_ptr + sequences + sequence, reference_sum, mask=live)
    return policy_sum, reference_sum, tl.maximum(tl.sum(count, axis=1), 1).to(tl.float64)


@triton.jit
def spread(
    coef, targets_ptr, cu_ptr, weights_ptr, coef_ptr, sequence, live, tokens, ignored, TOKENS: tl.constexpr
):  # fmt: skip
    """Write the coefficient of every row of the sequences, whose own is ``coef [ITEMS]`` float64."""
    begin, end = bounds(cu_ptr, sequence, live, tokens)
    for start in range(0, tl.max(end - begin), TOKENS):
        at, inside, active = rows_of(targets_ptr, begin, end, start, ignored, TOKENS)
        rows = weighed(tl.zeros(at.shape, tl.float64) + coef[:, None], weights_ptr, at, active)
        tl.store(coef_ptr + at, rows.to(tl.float32), mask=inside)


@triton.jit
def datum(x_ptr, at, mask, policy, OWN: tl.constexpr):
    """Data in float64; where they are not given, 0, or with ``OWN`` the policy's own log-prob."""
    if x_ptr is not None:
        found = tl.load(x_ptr + at, mask=mask, other=0).to(tl.float64)
    elif OWN:
        found = policy
    else:
        found = tl.zeros(policy.shape, tl.float64)
    return found


@triton.jit
def token_datum(x_ptr, at, sequence, active, live, policy, OWN: tl.constexpr, BY_SEQUENCE: tl.constexpr):
    """:func:`datum` of rows ``[ITEMS, TOKENS]``, from data of the rows or of their sequences."""
    if BY_SEQUENCE:
        found = tl.zeros(policy.shape, tl.float64) + datum(x_ptr, sequence, live, policy, False)[:, None]
    else:
        found = datum(x_ptr, at, active, policy, OWN)
    return found


@triton.jit(do_not_specialize=["tokens", "sequences", "parts", "ignored"])
def _sequence_objective(
    m_ptr, s_ptr, zt_ptr, targets_ptr, cu_ptr, weights_ptr, ref_ptr, x0_ptr, x1_ptr, x2_ptr, number_ptr,
    loss_ptr, losses_ptr, sums_ptr, lse_ptr, logps_ptr, ref_logps_ptr, coef_ptr,
    tokens, sequences, parts, ignored,
    h0: tl.float64, h1: tl.float64, h2: tl.float64, h3: tl.float64, h4: tl.float64,
    HEAD: tl.constexpr, PAIR: tl.constexpr, REFERENCE: tl.constexpr, OWN: tl.constexpr,
    ITEMS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    items = sequences
    if PAIR:
        items = sequences // 2
    number = 0.0
    if number_ptr is not None:
        number = tl.load(number_ptr).to(tl.float64)
    total = tl.zeros((ITEMS,), tl.float64)
    nothing = tl.zeros((ITEMS,), tl.float64)  # an output of a head may be a number
    for first in range(0, items, ITEMS):
        item = first + tl.arange(0, ITEMS)
        live = item < items
        policy, reference, length = sequence_sums(
            m_ptr, s_ptr, zt_ptr, targets_ptr, cu_ptr, weights_ptr, ref_ptr, sums_ptr, lse_ptr, logps_ptr,
            ref_logps_ptr, item, live, tokens, sequences, parts, ignored, REFERENCE, ITEMS, TOKENS,
        )  # fmt: skip
        x0 = datum(x0_ptr, item, live, policy, OWN == 0)
        if PAIR:
            other = item + items
            policy_l, reference_l, length_l = sequence_sums(
                m_ptr, s_ptr, zt_ptr, targets_ptr, cu_ptr, weights_ptr, ref_ptr, sums_ptr, lse_ptr, logps_ptr,
                ref_logps_ptr, other, live, tokens, sequences, parts, ignored, REFERENCE, ITEMS, TOKENS,
            )  # fmt: skip
            x0_l = datum(x0_ptr, other, live, policy_l, OWN == 0)
            loss, slope, slope_l = HEAD(
                policy, policy_l, reference, reference_l, length, length_l, x0, x0_l, h0, h1, h2, h3, h4, number
            )
            of_item = (nothing + slope_l) / items
            spread(of_item, targets_ptr, cu_ptr, weights_ptr, coef_ptr, other, live, tokens, ignored, TOKENS)
        else:
            x1 = datum(x1_ptr, item, live, policy, OWN == 1)
            x2 = datum(x2_ptr, item, live, policy, OWN == 2)
            loss, slope = HEAD(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number)
        of_item = (nothing + slope) / items
        spread(of_item, targets_ptr, cu_ptr, weights_ptr, coef_ptr, item, live, tokens, ignored, TOKENS)
        tl.store(losses_ptr + item, nothing + loss, mask=live)
        total += tl.where(live, nothing + loss, 0.0)
    tl.store(loss_ptr, (tl.sum(total, axis=0) / items).to(tl.float32))


@triton.jit(do_not_specialize=["tokens", "sequences", "parts", "ignored"])
def _token_objective(
    m_ptr, s_ptr, zt_ptr, targets_ptr, cu_ptr, divisors_ptr, ref_ptr,
    x0_ptr, x1_ptr, x2_ptr, x3_ptr, x4_ptr,
    loss_ptr, losses_ptr, sums_ptr, lse_ptr, logps_ptr, ref_logps_ptr, coef_ptr,
    tokens, sequences, parts, ignored,
    h0: tl.float64, h1: tl.float64, h2: tl.float64, h3: tl.float64, h4: tl.float64,
    HEAD: tl.constexpr, REFERENCE: tl.constexpr, OWN: tl.constexpr, BY_SEQUENCE: tl.constexpr,
    ITEMS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((ITEMS,), tl.float64)
    nothing = tl.zeros((ITEMS, TOKENS), tl.float64)  # an output of a head may be a number
    for first in range(0, sequences, ITEMS):
        item = first + tl.arange(0, ITEMS)
        live = item < sequences
        begin, end = bounds(cu_ptr, item, live, tokens)
        divisor = tl.load(divisors_ptr + item, mask=live, other=1.0).to(tl.float64)
        share = 1.0 / (divisor * sequences)
        policy_sum = nothing
        reference_sum = nothing
        loss_sum = nothing
        for start in range(0, tl.max(end - begin), TOKENS):
            at, inside, active = rows_of(targets_ptr, begin, end, start, ignored, TOKENS)
            logps, lse = token_logps(m_ptr, s_ptr, zt_ptr, at, active, tokens, parts)
            near = reference_of(m_ptr, s_ptr, zt_ptr, ref_ptr, at, active, tokens, parts, REFERENCE)
            tl.store(lse_ptr + at, lse, mask=inside)
            tl.store(logps_ptr + at, logps, mask=inside)
            if ref_logps_ptr is not None:
                tl.store(ref_logps_ptr + at, near, mask=inside)
            policy = logps.to(tl.float64)
            x0 = token_datum(x0_ptr, at, item, active, live, policy, OWN == 0, BY_SEQUENCE % 2 == 1)
            x1 = token_datum(x1_ptr, at, item, active, live, policy, OWN == 1, BY_SEQUENCE // 2 % 2 == 1)
            x2 = token_datum(x2_ptr, at, item, active, live, policy, OWN == 2, BY_SEQUENCE // 4 % 2 == 1)
            x3 = token_datum(x3_ptr, at, item, active, live, policy, OWN == 3, BY_SEQUENCE // 8 % 2 == 1)
            x4 = token_datum(x4_ptr, at, item, active, live, policy, OWN == 4, BY_SEQUENCE // 16 % 2 == 1)
            loss, slope = HEAD(policy, near.to(tl.float64), x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, 0.0)
            rows = tl.where(active, (nothing + slope) * share[:, None], 0.0)
            tl.store(coef_ptr + at, rows.to(tl.float32), mask=inside)
            policy_sum += policy
            reference_sum += near.to(tl.float64)
            loss_sum += tl.where(active, nothing + loss, 0.0)
        tl.store(sums_ptr + item, tl.sum(policy_sum, axis=1), mask=live)
        tl.store(sums_ptr + sequences + item, tl.sum(reference_sum, axis=1), mask=live)
        losses = tl.sum(loss_sum, axis=1) / divisor
        tl.store(losses_ptr + item, losses, mask=live)
        total += tl.where(live, losses, 0.0)
    tl.store(loss_ptr, (tl.sum(total, axis=0) / sequences).to(tl.float32))


class Objective(NamedTuple):
    """What the stage leaves; shapes and dtypes at the top of this file. ``ref_logps`` has no elements where the reference has no logits."""

    loss: Tensor
    losses: Tensor
    sums: Tensor
    lse: Tensor
    logps: Tensor
    ref_logps: Tensor
    coef: Tensor


def objective(
    head: Head,
    hyper: tuple[float, ...],
    partials: tuple[Tensor, Tensor, Tensor],
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    ignore_index: int,
    data: tuple[Tensor | None, ...],
    reference: Tensor | None = None,
    weights: Tensor | None = None,
    number: Tensor | None = None,
    divisors: Tensor | None = None,
) -> Objective:
    """Launch. ``hyper`` and ``data`` follow ``head.hyper`` and ``head.data``; a datum that is ``None`` is 0, or, of ``old_logps``, the
    policy's own log-probs. All tensors are contiguous. See the top of this file."""
    m, s, zt = partials
    tokens, sequences, parts = targets.shape[0], cu_seqlens.shape[0] - 1, m.shape[1]
    items = sequences // 2 if head.kind == "pair" else sequences

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=targets.device)

    by_token, online = head.kind == "token", m.shape[0] == 2
    out = Objective(
        new(), new(items, dtype=torch.float64), new(2, sequences, dtype=torch.float64),
        new(tokens), new(tokens), new(tokens if online else 0), new(tokens),
    )  # fmt: skip
    left = (out.loss, out.losses, out.sums, out.lse, out.logps, out.ref_logps if online else None, out.coef)
    if online:
        kind = "logits"
    elif reference is None:
        kind = "none"
    else:  # where every sequence is one row both forms are the same
        kind = "tokens" if reference.shape[0] == tokens else "sequences"
    per_item = min(triton.next_power_of_2(items), _MOST_ITEMS)
    block = {"ITEMS": per_item, "TOKENS": _BLOCK // per_item, "num_warps": _WARPS, "enable_fp_fusion": True}
    given = [
        tensor.view(torch.uint8) if tensor is not None and tensor.dtype == torch.bool else tensor for tensor in data
    ]
    absent = [name for name, tensor in zip(head.data, data, strict=True) if tensor is None]
    own = head.data.index("old_logps") if "old_logps" in absent else -1
    numbers = (*hyper, *[0.0] * (5 - len(hyper)))
    sizes = (tokens, sequences, parts, ignore_index)
    with torch.cuda.device_of(targets):  # Triton launches on the current device
        if by_token:
            by_sequence = sum(2**i for i, x in enumerate(given) if x is not None and x.shape[0] != tokens)
            _token_objective[(1,)](
                m, s, zt, targets, cu_seqlens, divisors, reference, *given, *[None] * (5 - len(given)),
                *left, *sizes, *numbers,
                HEAD=head.function, REFERENCE=kind, OWN=own, BY_SEQUENCE=by_sequence, **block,
            )  # fmt: skip
        else:
            _sequence_objective[(1,)](
                m, s, zt, targets, cu_seqlens, weights, reference, *given, *[None] * (3 - len(given)), number,
                *left, *sizes, *numbers,
                HEAD=head.function, PAIR=head.kind == "pair", REFERENCE=kind, OWN=own, **block,
            )  # fmt: skip
    return out
