"""Plan D1: the logits of a group of pairs stay resident until its coefficients are known, then become its gradients.

Per group: statistics of the reference and of the policy, whose logits are kept; the group's sequence log-probs; the objective's
coefficients; gradients from the kept logits. The loss itself is computed afterwards from all K sequence log-probs, by the same code as
in plan D0. Valid where the objective separates by pair and the loss is a scalar (the planner sees to it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._checks import may_synchronise, refuse_nan
from .linear_head import Head, Needs, Tiling, WeightGradient, gradients, scratch, statistics
from .objectives.base import Objective, SequenceBatch
from .packing import segment_sum, wide_dtype
from .planner import Plan
from .token_logprobs import LinearInput, active_rows, compact, scatter_rows


@dataclass(frozen=True)
class PackedTargets:
    """The targets of a call: ``ids [T]`` normalised, ``cu_seqlens [K+1]``, ``lengths [K]`` rows that are not ignored, at least 1."""

    ids: Tensor
    cu_seqlens: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class ResidentRun:
    """What plan D1 leaves.

    Attributes:
        logps: ``[K]`` sequence log-probs of the policy.
        ref_logps: ``[K]`` of the reference, or ``None``.
        gradients: of hidden, weight and bias for an upstream gradient of 1; ``None`` where not needed.
        lse: ``[T]``.
        coef: ``[T]`` ``d loss / d logp``.
    """

    logps: Tensor
    ref_logps: Tensor | None
    gradients: list[Tensor | None]
    lse: Tensor
    coef: Tensor


@torch.no_grad()
def run_resident(
    chosen: Objective,
    head: Head,
    operands: LinearInput,
    online: LinearInput | None,
    known: Tensor | None,
    targets: PackedTargets,
    data: dict[str, Tensor],
    plan: Plan,
) -> ResidentRun:
    """Run the plan.

    Args:
        chosen: the objective; couples by pair.
        head: the policy's head.
        operands: the policy's operands.
        online: the reference's operands, to be run here, or ``None``.
        known: ``[K]`` sequence log-probs of a precomputed reference, or ``None``.
        targets: of both.
        data: what else the objective takes, ``[K]`` each.
        plan: a D1 plan.
    """
    device, pairs = operands.hidden.device, targets.lengths.shape[0] // 2
    ends = targets.cu_seqlens.tolist()
    needs = Needs(
        operands.hidden.requires_grad,
        operands.weight.requires_grad,
        operands.bias is not None and operands.bias.requires_grad,
    )
    reference = None if online is None else (online, Head(online.weight, online.bias, head.transform, head.backend))
    arena = scratch(operands.hidden, plan.row_block * head.vocab)
    into = WeightGradient.start(head, needs, float32=plan.float32_weight_gradient)
    dx = torch.zeros_like(operands.hidden) if needs.hidden else None
    logps = torch.zeros(2 * pairs, dtype=wide_dtype(device), device=device)
    ref_logps = known if reference is None else torch.zeros_like(logps)
    lse = torch.zeros(
        targets.ids.shape[0], dtype=torch.promote_types(operands.hidden.dtype, torch.float32), device=device
    )
    coef = torch.zeros_like(lse)

    with torch.autocast(device.type, enabled=False):
        for first, last in plan.groups:
            members = [*range(first, last), *range(pairs + first, pairs + last)]
            sequences = torch.tensor(members, device=device)
            spans = [slice(ends[a], ends[b]) for a, b in ((first, last), (pairs + first, pairs + last))]
            counts = torch.tensor([ends[k + 1] - ends[k] for k in members])
            boundaries = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            ids = _gather(targets.ids, spans)
            active = active_rows(ids)
            x, t = compact(active, _gather(operands.hidden, spans), ids)
            tiling = Tiling(plan.vocab_chunk, max(t.shape[0], 1))
            rows = _Rows(spans, active, ids.shape[0], boundaries)
            if reference is not None and ref_logps is not None:
                # Before the policy's logits: the plan counts one chunk of scratch or the arena, not both.
                other, other_head = reference
                (y,) = compact(active, _gather(other.hidden, spans))
                tokens, _ = statistics(other_head, y, t, tiling)
                refuse_nan(tokens, t, "reference hidden", rows.numbers)
                ref_logps[sequences] = rows.sums(tokens)
            tokens, group_lse = statistics(head, x, t, tiling, resident=arena)
            refuse_nan(tokens, t, "hidden", rows.numbers)
            logps[sequences] = rows.sums(tokens)
            c = _coefficients(chosen, SequenceBatch(logps, ref_logps, targets.lengths, data), sequences, pairs)
            (per_row,) = compact(active, rows.spread(c).to(group_lse.dtype))
            part = gradients(head, x, t, group_lse, per_row, per_row, tiling, needs, into, resident=arena)
            rows.put(lse, group_lse)
            rows.put(coef, per_row)
            if dx is not None and part is not None:
                rows.put(dx, part)
    dw, db = into.finish(head)
    return ResidentRun(logps, ref_logps, [dx, dw, db], lse, coef)


def _gather(values: Tensor, spans: Sequence[slice]) -> Tensor:
    """The rows of both spans, the chosen ones first."""
    return torch.cat([values[span] for span in spans])


@dataclass(frozen=True)
class _Rows:
    """Where a group's rows come from: two spans of the call's rows, of which ``active`` are run (``None``: all ``count``)."""

    spans: Sequence[slice]
    active: Tensor | None
    count: int
    boundaries: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """Sums over the group's sequences of values of the active rows."""
        return segment_sum(scatter_rows(self.active, values, self.count), self.boundaries)

    def spread(self, values: Tensor) -> Tensor:
        """A value per sequence to all of its rows."""
        return torch.repeat_interleave(values, self.boundaries.diff().to(values.device), output_size=self.count)

    def put(self, into: Tensor, values: Tensor) -> None:
        """Write values of the active rows to their places in the call; ignored rows get 0."""
        full = scatter_rows(self.active, values, self.count)
        first = self.spans[0].stop - self.spans[0].start
        into[self.spans[0]], into[self.spans[1]] = full[:first], full[first:]

    @property
    def numbers(self) -> Tensor:
        """The row numbers in the call of the active rows, on the host."""
        every = torch.cat([torch.arange(span.start, span.stop) for span in self.spans])
        return every if self.active is None else every[self.active.cpu()]


def _coefficients(chosen: Objective, batch: SequenceBatch, sequences: Tensor, items: int) -> Tensor:
    """``d loss / d s_k`` of these sequences, where ``loss`` is the mean over all ``items``."""
    with torch.enable_grad():
        leaf = batch.policy[sequences].detach().requires_grad_(True)
        total = chosen.losses(batch.select(sequences, leaf)).sum() / items
        (c,) = torch.autograd.grad(total, leaf)
    return c


class _Attach(torch.autograd.Function):
    """Gives a loss its gradients, which were formed together with it.

    Backward scales them by the upstream gradient and hands them over, without a copy. A second backward (``retain_graph``) finds them gone
    and makes them again by plan D0 from the log-sum-exp and the coefficients.
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
        ids, lse, coef, *ctx.options = again
        ctx.made = list(made)
        ctx.save_for_backward(hidden, weight, bias, ids, lse, coef)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise NotImplementedError("fastpref has no second derivatives: differentiate with create_graph=False")
        (upstream,) = grad_outputs
        hidden, weight, bias, ids, lse, coef = ctx.saved_tensors
        made, ctx.made = ctx.made, None
        if made is None:
            needs = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
            scaled = (coef * upstream).to(coef.dtype)
            redo = torch.ops.fastpref.linear_logprobs_backward
            grads = redo(hidden, weight, bias, ids, lse, scaled, scaled, *ctx.options, needs)
            made = [g if needed else None for g, needed in zip(grads, needs, strict=True)]
        elif not (may_synchronise(upstream.device) and bool(upstream == 1)):
            made = [None if g is None else g.mul_(upstream) for g in made]
        return *made, None, None, None


def attach_gradients(
    loss: Tensor,
    run: ResidentRun,
    head: Head,
    operands: LinearInput,
    targets: PackedTargets,
    tiling: Tiling,
    backend: str | None,
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
        (targets.ids, run.lse, run.coef, *options),
    )
