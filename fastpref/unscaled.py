"""Plan D2: gradients of a unit accumulate unscaled, a few rows at a time, and are scaled when the unit's coefficient is known.

Valid where ``d loss / d logp`` of a unit's rows is one number times what is known beforehand (:func:`unit_direction`): ``(+w, -w)`` for a
pair whose loss depends on the margin alone, ``w`` for a sequence whose loss depends on its sum alone, with ``w`` the token weights. A unit
then need not fit into memory: the logits of one block of its rows do. Its dW is a ``[V, H]`` sum of its own, and once more memory of that
size where the call has several units, for the scaled total.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ._checks import may_synchronise
from .call import Call
from .linear_head import Head, Kept, Tiling, WeightGradient, gradients, kept_buffer
from .objectives.base import Traits
from .packing import wide_dtype
from .planner import Plan
from .resident import ReferenceSource, ResidentRun, UnitRun
from .token_logprobs import LinearInput

TOLERANCE = 1e-3
"""How far, relative to the largest, a coefficient may be from what the declared direction says."""


def has_known_direction(traits: Traits, given: Collection[str]) -> bool:
    """Whether losses with these traits, given data of these names, have one unknown factor per unit, by what they declare."""
    if traits.level != "sequence" or traits.vocabulary or "old_logps" in given:
        return False
    return traits.coupling == "sequence" or (traits.coupling == "pair" and traits.margin_only)


def unit_direction(call: Call, reference: bool) -> Tensor | None:
    """``[T]`` what ``d loss / d logp`` is, but for one factor per unit; ``None`` where it is not known before the log-probs are."""
    traits = call.objective.traits
    if not has_known_direction(traits, call.data):
        return None
    sequences = call.lengths.shape[0]
    sign = torch.ones(sequences, dtype=wide_dtype(call.active.device), device=call.active.device)
    if traits.coupling == "pair":
        sign[sequences // 2 :] = -1.0
    if call.token_weights is None:
        return sign[call.sequence].masked_fill(~call.active, 0.0)
    if _reads_plain_sums(call, reference):
        return None
    return (sign[call.sequence] * call.token_weights).masked_fill(~call.active, 0.0)


def _reads_plain_sums(call: Call, reference: bool) -> bool:
    """Whether the loss depends on sums without the token weights beside those with them, so that a sequence enters as two numbers."""
    with torch.enable_grad():
        nothing = call.without_logps()
        plain = torch.zeros_like(nothing.policy).requires_grad_()
        given = {name: value.detach() for name, value in call.data.items()}
        batch = replace(nothing, unweighted=plain, reference=nothing.policy if reference else None, data=given)
        losses = call.objective.losses(batch)
        return losses.requires_grad and torch.autograd.grad(losses.sum(), plain, allow_unused=True)[0] is not None


@torch.no_grad()
def run_unscaled(
    call: Call,
    ids: Tensor,
    units: Sequence[Sequence[int]],
    direction: Tensor,
    head: Head,
    operands: LinearInput,
    reference: ReferenceSource,
    plan: Plan,
    gradient_filter: float | None = None,
    keeps_float32: bool = False,
) -> ResidentRun:
    """Run plan D2.

    Args:
        call: the rows and the data.
        ids: ``[T]`` normalised targets.
        units: sequence numbers of each unit.
        direction: ``[T]`` from :func:`unit_direction`.
        head: the policy's head.
        operands: the policy's operands.
        reference: where the reference's log-probs come from.
        plan: a D2 plan over the units.
        gradient_filter: see :mod:`fastpref.gradient_filter`.
        keeps_float32: leave dW in float32, for a ``main_grad``.
    """
    run = UnitRun(call, ids, head, operands, reference)
    arena = kept_buffer(head, operands.hidden, plan.row_block)
    total = WeightGradient.start(head, run.needs, float32=True)
    unit = total if len(units) == 1 else WeightGradient.start(head, run.needs, float32=True)
    with torch.autocast(ids.device.type, enabled=False):
        for sequences in units:
            members = run.members([sequences])
            unit.restart()
            parts = []
            for used in members.used.split(plan.row_block):
                count = used.shape[0]
                tiling, kept = Tiling(plan.vocab_chunk, max(count, 1), count), Kept(arena, count, once=True)
                swept = run.sweep(used, tiling, kept)
                kept = replace(kept, logps=run.logps[used])
                known = direction[used].to(run.lse.dtype)
                parts.append(
                    gradients(
                        swept.head,
                        swept.hidden,
                        swept.targets,
                        run.lse[used],
                        known,
                        known,
                        tiling,
                        run.needs,
                        unit,
                        kept,
                        rounded=False,
                        gradient_filter=gradient_filter,
                    )
                )
            factor = _factor(run.coefficients(members), direction[members.rows], call.objective.name)
            run.coef[members.rows] = (factor * direction[members.rows]).to(run.coef.dtype)
            if unit is total:
                total.scale(factor)
            else:
                total.add(unit, factor)
            if run.dx is not None:
                for used, part in zip(members.used.split(plan.row_block), parts, strict=True):
                    if part is not None:
                        run.dx[used] = part.mul_(factor).to(run.dx.dtype)
    return run.finish(total, keeps_float32)


def _factor(coefficients: Tensor, direction: Tensor, name: str) -> Tensor:
    """The scalar that makes ``coefficients [R]`` of ``direction [R]``; 0 where that is 0."""
    wide = coefficients.to(direction.dtype)
    factor = (wide * direction).sum() / direction.square().sum().clamp_min(torch.finfo(direction.dtype).tiny)
    if may_synchronise(wide.device):
        largest, off = wide.abs().amax(), (wide - factor * direction).abs().amax()
        if bool(off > TOLERANCE * largest):
            raise ValueError(
                f"{name}: expected d loss / d logp of a unit along the direction that its traits declare (coupling, margin_only), "
                f"found {float(off):.3g} off it, of {float(largest):.3g}; take plan='D1'"
            )
    return factor
