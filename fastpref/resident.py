"""Plan D1: the logits of a group of units stay resident until its coefficients are known, then become its gradients.
And what it has in common with plan D2 (:mod:`fastpref.unscaled`), which forms gradients in the forward call as well.

A unit is the smallest set of sequences that the objective couples: a pair, a sequence, the responses to one prompt. Per group of units:
statistics of the reference and of the policy, whose logits are kept; the objective's coefficient of every row; gradients from the kept
logits. The loss itself is computed afterwards from all log-probs, by the same code as in plan D0. Valid where the objective separates by
unit and the loss is a scalar (the planner sees to it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ._checks import NO_SECOND_DERIVATIVES, may_synchronise, refuse_nan
from .call import Call
from .linear_head import (
    Head,
    Kept,
    Needs,
    Tiling,
    WeightGradient,
    gradients,
    kept_buffer,
    stacked_statistics,
    statistics,
)
from .planner import Plan
from .token_logprobs import LinearInput, linear_gradients


@dataclass(frozen=True)
class ReferenceSource:
    """Where the reference's log-probs come from.

    Attributes:
        known: ``[K]`` or ``[T]`` log-probs that were given.
        online: operands of a reference to be run.
        shared: the head of ``online`` is the policy's.
        is_policy: the reference is the policy itself: its log-probs are.
    """

    known: Tensor | None = None
    online: LinearInput | None = None
    shared: bool = False
    is_policy: bool = False


@dataclass(frozen=True)
class ResidentRun:
    """What plans D1 and D2 leave.

    Attributes:
        logps: ``[T]`` token log-probs of the policy.
        ref_logps: of the reference: ``[T]``, or as it was given, or ``None``.
        log_sum_sq_probs: ``[T]``, where the objective asked for it.
        gradients: of hidden, weight and bias for an upstream gradient of 1; ``None`` where not needed.
        lse: ``[T]``.
        coef: ``[T]`` ``d loss / d logp``.
    """

    logps: Tensor
    ref_logps: Tensor | None
    log_sum_sq_probs: Tensor | None
    gradients: list[Tensor | None]
    lse: Tensor
    coef: Tensor


@dataclass(frozen=True)
class Members:
    """Some units of a call: their sequences, all their ``rows`` in that order, and those of them, ``used``, that are not ignored."""

    sequences: list[int]
    rows: Tensor
    used: Tensor


@dataclass(frozen=True)
class Swept:
    """Rows whose statistics were made: the head with their own transforms, hidden states and targets."""

    head: Head
    hidden: Tensor
    targets: Tensor


class UnitRun:
    """The log-probs, statistics and coefficients of a call that is run a few units at a time; each field of :class:`ResidentRun` for all rows."""

    def __init__(self, call: Call, ids: Tensor, head: Head, operands: LinearInput, reference: ReferenceSource) -> None:
        self.call, self.ids, self.head, self.operands, self.reference = call, ids, head, operands, reference
        self.needs = Needs(
            operands.hidden.requires_grad,
            operands.weight.requires_grad,
            operands.bias is not None and operands.bias.requires_grad,
        )
        self.wanted = tuple(v for v in call.objective.traits.vocabulary if v == "log_sum_sq_probs")
        self.dx = torch.zeros_like(operands.hidden) if self.needs.hidden else None
        dtype = torch.promote_types(operands.hidden.dtype, torch.float32)
        self.logps = torch.zeros(ids.shape[0], dtype=dtype, device=ids.device)
        made_here = reference.online is not None or reference.is_policy
        self.ref_logps = torch.zeros_like(self.logps) if made_here else reference.known
        self.sum_sq = torch.zeros_like(self.logps) if self.wanted else None
        self.lse, self.coef = torch.zeros_like(self.logps), torch.zeros_like(self.logps)
        self.items = call.objective.items(call.without_logps())

    def members(self, units: Sequence[Sequence[int]]) -> Members:
        """The sequences and rows of some units."""
        sequences = _in_call_order(units)
        picked = torch.tensor(sequences)
        starts = self.call.cu_seqlens.to(torch.int64)
        counts = starts.diff()[picked]
        before = counts.cumsum(0) - counts
        rows = torch.arange(int(counts.sum())) + torch.repeat_interleave(starts[picked] - before, counts)
        rows = rows.to(self.ids.device)
        return Members(sequences, rows, rows[self.ids[rows] >= 0] if self.ids.device.type == "cpu" else rows)

    def sweep(self, used: Tensor, tiling: Tiling, kept: Kept) -> Swept:
        """Statistics of these rows, whose logits go to ``kept``."""
        x, t = self.operands.hidden.index_select(0, used), self.ids[used]
        head = replace(self.head, transform=self.head.transform.rows(used))
        online, ref_logps = self.reference.online, self.ref_logps
        if online is None:
            found = statistics(head, x, t, tiling, kept, self.wanted)
            near = found.logps if self.reference.is_policy else None
        elif self.reference.shared:
            y = online.hidden.index_select(0, used)
            found, near = stacked_statistics(head, x, y, t, tiling, kept, self.wanted)
        else:
            ref_head = replace(head, weight=online.weight, bias=online.bias)
            near = statistics(ref_head, online.hidden.index_select(0, used), t, tiling).logps
            found = statistics(head, x, t, tiling, kept, self.wanted)
        if near is not None and ref_logps is not None:
            refuse_nan(near, t, "reference hidden", used)
            ref_logps[used] = near
        refuse_nan(found.logps, t, "hidden", used)
        self.logps[used], self.lse[used] = found.logps, found.lse
        if self.sum_sq is not None and found.log_sum_sq_probs is not None:
            self.sum_sq[used] = found.log_sum_sq_probs
        return Swept(head, x, t)

    def coefficients(self, members: Members) -> Tensor:
        """``d loss / d logp`` of all rows of these units, once every row of theirs was swept."""
        rows, reference = members.rows, self.ref_logps
        if reference is not None:
            per_sequence = reference.shape[0] != self.ids.shape[0]
            reference = reference[torch.tensor(members.sequences, device=rows.device) if per_sequence else rows]
        part = self.call.part(members.sequences, rows)
        sum_sq = None if self.sum_sq is None else self.sum_sq[rows]
        return _coefficients(part, self.logps[rows], reference, sum_sq, self.items)

    def finish(self, into: WeightGradient, keeps_float32: bool = False) -> ResidentRun:
        """The result, with the sums of dW (in float32 if it is kept so, for a ``main_grad``) and db."""
        dw, db = into.finish(self.head, float32=keeps_float32)
        return ResidentRun(self.logps, self.ref_logps, self.sum_sq, [self.dx, dw, db], self.lse, self.coef)


@torch.no_grad()
def run_resident(
    call: Call,
    ids: Tensor,
    units: Sequence[Sequence[int]],
    head: Head,
    operands: LinearInput,
    reference: ReferenceSource,
    plan: Plan,
    gradient_filter: float | None = None,
    keeps_float32: bool = False,
) -> ResidentRun:
    """Run plan D1.

    Args:
        call: the rows and the data.
        ids: ``[T]`` normalised targets.
        units: sequence numbers of each unit.
        head: the policy's head.
        operands: the policy's operands.
        reference: where the reference's log-probs come from.
        plan: a D1 plan over the units.
        gradient_filter: see :mod:`fastpref.gradient_filter`.
        keeps_float32: leave dW in float32, for a ``main_grad``.
    """
    run = UnitRun(call, ids, head, operands, reference)
    arena = kept_buffer(head, operands.hidden, plan.row_block)
    into = WeightGradient.start(head, run.needs, float32=plan.float32_weight_gradient)
    with torch.autocast(ids.device.type, enabled=False):
        for first, last in plan.groups:
            members = run.members(units[first:last])
            count = members.used.shape[0]
            tiling, kept = Tiling(plan.vocab_chunk, max(count, 1), count), Kept(arena, count, once=True)
            swept = run.sweep(members.used, tiling, kept)
            run.coef[members.rows] = run.coefficients(members)
            lse, c = run.lse[members.used], run.coef[members.used]
            if may_synchronise(ids.device) and not bool((c != 0).any()):
                continue
            kept = replace(kept, logps=run.logps[members.used])
            part_dx = gradients(
                swept.head,
                swept.hidden,
                swept.targets,
                lse,
                c,
                c,
                tiling,
                run.needs,
                into,
                kept,
                gradient_filter=gradient_filter,
            )
            if run.dx is not None and part_dx is not None:
                run.dx[members.used] = part_dx
    return run.finish(into, keeps_float32)


def _in_call_order(units: Sequence[Sequence[int]]) -> list[int]:
    """The units' first sequences, then their second ones, and so on: pairs stay N chosen, then N rejected."""
    longest = max(len(unit) for unit in units)
    return [unit[i] for i in range(longest) for unit in units if i < len(unit)]


def _coefficients(part: Call, logps: Tensor, reference: Tensor | None, sum_sq: Tensor | None, items: int) -> Tensor:
    """``d loss / d logp`` of these rows, in their dtype, where ``loss`` is the mean over all ``items`` of the call."""
    with torch.enable_grad():
        leaf = logps.detach().requires_grad_(True)
        data = {name: value.detach() for name, value in part.data.items()}
        batch = replace(part, data=data).batch(leaf, reference, log_sum_sq_probs=sum_sq)
        total = part.objective.losses(batch).sum() / items
        if not total.requires_grad:
            return torch.zeros_like(logps)
        (c,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return torch.zeros_like(logps) if c is None else c.masked_fill(~part.active, 0.0)


class _Attach(torch.autograd.Function):
    """Gives a loss its gradients, which were formed together with it.

    Backward scales them by the upstream gradient and hands them over, without a copy; dW is added to a ``main_grad`` instead. A second backward (``retain_graph``) finds them gone
    and makes them again by plan D0 from the log-sum-exp and the coefficients. The loss's own graph (to data that are learnt, such as
    values) gets the upstream gradient as it is.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Tensor,
        made: Sequence[Tensor | None],
        again: tuple[Any, ...],
    ) -> Tensor:
        ids, inv_temperature, lse, coef, ctx.gradient_filter, ctx.main_grad, *ctx.options = again
        ctx.made = list(made)
        ctx.save_for_backward(hidden, weight, bias, ids, inv_temperature, lse, coef)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise NotImplementedError(NO_SECOND_DERIVATIVES)
        (upstream,) = grad_outputs
        hidden, weight, bias, ids, inv_temperature, lse, coef = ctx.saved_tensors
        made, ctx.made = ctx.made, None
        if made is None:
            needs = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
            scaled = (coef * upstream).to(coef.dtype)
            arguments = (hidden, weight, bias, ids, inv_temperature, lse, scaled, scaled, *ctx.options, None, 0, None)
            made = linear_gradients(arguments, needs, ctx.gradient_filter, ctx.main_grad)
        else:
            if ctx.main_grad is not None and made[1] is not None:
                ctx.main_grad.addcmul_(made[1], upstream.to(ctx.main_grad.dtype))
                made[1] = None
            if not (may_synchronise(upstream.device) and bool(upstream == 1)):
                made = [None if g is None else g.mul_(upstream) for g in made]
        return *made, upstream if ctx.needs_input_grad[3] else None, None, None


def attach_gradients(
    loss: Tensor,
    run: ResidentRun,
    head: Head,
    operands: LinearInput,
    ids: Tensor,
    tiling: Tiling,
    backend: str | None,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
) -> Tensor:
    """``loss`` as a differentiable function of the operands, with the gradients of the run; ``tiling`` is for a second backward."""
    t = head.transform
    options = (t.logit_scale, t.softcap, t.temperature, tiling.vocab_chunk, tiling.row_block, backend or "auto")
    return _Attach.apply(
        operands.hidden,
        operands.weight,
        operands.bias,
        loss,
        run.gradients,
        (ids, t.inv_temperature, run.lse, run.coef, gradient_filter, main_grad, *options),
    )
