"""Plan D1: the logits of a group of units stay resident until its coefficients are known, then become its gradients.

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

from ._checks import may_synchronise, refuse_nan
from .call import Call
from .linear_head import Head, Needs, Tiling, WeightGradient, gradients, scratch, statistics
from .planner import Plan
from .token_logprobs import LinearInput, active_rows, compact, linear_gradients, scatter_rows


@dataclass(frozen=True)
class ResidentRun:
    """What plan D1 leaves.

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


@torch.no_grad()
def run_resident(
    call: Call,
    ids: Tensor,
    units: Sequence[Sequence[int]],
    head: Head,
    operands: LinearInput,
    online: LinearInput | None,
    known: Tensor | None,
    plan: Plan,
    gradient_filter: float | None = None,
    keeps_float32: bool = False,
) -> ResidentRun:
    """Run the plan.

    Args:
        call: the rows and the data.
        ids: ``[T]`` normalised targets.
        units: sequence numbers of each unit.
        head: the policy's head.
        operands: the policy's operands.
        online: the reference's operands, to be run here, or ``None``.
        known: ``[K]`` or ``[T]`` log-probs of a precomputed reference, or ``None``.
        plan: a D1 plan over the units.
        gradient_filter: see :mod:`fastpref.gradient_filter`.
        keeps_float32: leave dW in float32, for a ``main_grad``.
    """
    ends = call.cu_seqlens.tolist()
    needs = Needs(
        operands.hidden.requires_grad,
        operands.weight.requires_grad,
        operands.bias is not None and operands.bias.requires_grad,
    )
    reference = None if online is None else (online, Head(online.weight, online.bias, head.transform, head.backend))
    wanted = tuple(v for v in call.objective.traits.vocabulary if v == "log_sum_sq_probs")
    arena = scratch(operands.hidden, plan.row_block * head.vocab)
    into = WeightGradient.start(head, needs, float32=plan.float32_weight_gradient)
    dx = torch.zeros_like(operands.hidden) if needs.hidden else None
    dtype = torch.promote_types(operands.hidden.dtype, torch.float32)
    logps = torch.zeros(ids.shape[0], dtype=dtype, device=ids.device)
    ref_logps = known if reference is None else torch.zeros_like(logps)
    sum_sq = torch.zeros_like(logps) if wanted else None
    lse, coef = torch.zeros_like(logps), torch.zeros_like(logps)
    items = call.objective.items(call.without_logps())

    with torch.autocast(ids.device.type, enabled=False):
        for first, last in plan.groups:
            members = _in_call_order(units[first:last])
            rows = torch.cat([torch.arange(ends[k], ends[k + 1]) for k in members]).to(ids.device)
            part_ids = ids[rows]
            active = active_rows(part_ids)
            used = rows if active is None else rows[active]
            x, t = compact(active, operands.hidden[rows], part_ids)
            part_head = replace(head, transform=head.transform.rows(used))
            tiling = Tiling(plan.vocab_chunk, max(t.shape[0], 1))
            if reference is not None and ref_logps is not None:
                # Before the policy's logits: the plan counts one chunk of scratch or the arena, not both.
                other, other_head = reference
                other_head = replace(other_head, transform=part_head.transform)
                found = statistics(other_head, other.hidden[used], t, tiling)
                refuse_nan(found.logps, t, "reference hidden", used)
                ref_logps[used] = found.logps
            found = statistics(part_head, x, t, tiling, resident=arena, stats=wanted)
            refuse_nan(found.logps, t, "hidden", used)
            logps[used], lse[used] = found.logps, found.lse
            if sum_sq is not None and found.log_sum_sq_probs is not None:
                sum_sq[used] = found.log_sum_sq_probs
            per_sequence = ref_logps is not None and ref_logps.shape[0] != ids.shape[0]
            part = call.part(members, rows)
            part_reference = None
            if ref_logps is not None:
                part_reference = (
                    ref_logps[torch.tensor(members, device=ids.device)] if per_sequence else ref_logps[rows]
                )
            c = _coefficients(part, logps[rows], part_reference, None if sum_sq is None else sum_sq[rows], items)
            coef[rows] = c
            (per_row,) = compact(active, c)
            if may_synchronise(ids.device) and not bool((per_row != 0).any()):
                continue
            part_dx = gradients(
                part_head,
                x,
                t,
                found.lse,
                per_row,
                per_row,
                tiling,
                needs,
                into,
                resident=arena,
                gradient_filter=gradient_filter,
            )
            if dx is not None and part_dx is not None:
                dx[rows] = scatter_rows(active, part_dx, rows.shape[0])
    dw, db = into.finish(head, float32=keeps_float32)
    return ResidentRun(logps, ref_logps, sum_sq, [dx, dw, db], lse, coef)


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
            raise NotImplementedError("fastpref has no second derivatives: differentiate with create_graph=False")
        (upstream,) = grad_outputs
        hidden, weight, bias, ids, inv_temperature, lse, coef = ctx.saved_tensors
        made, ctx.made = ctx.made, None
        if made is None:
            needs = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
            scaled = (coef * upstream).to(coef.dtype)
            arguments = (hidden, weight, bias, ids, inv_temperature, lse, scaled, scaled, *ctx.options)
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
