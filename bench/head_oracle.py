"""DPO from hidden states in float64, by vocabulary chunks, written for ``bench/head.py`` alone: what errors are measured against.

Shares no code with the package. The operands are taken as they are (a bf16 weight holds the numbers it holds), so the errors are those of the
arithmetic. Memory: one chunk of the weight and of the logits in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from head_contestants import BETA, Problem, Result
from torch import Tensor

CHUNK = 8192
SAMPLED_ENTRIES = 256


@dataclass(frozen=True)
class Truth:
    """``log_ratios [K]``, ``dx [T, H]``, and the rows ``entries [S]`` of dW: ``dw [S, H]``, None with a frozen head."""

    log_ratios: Tensor
    dx: Tensor
    entries: Tensor
    dw: Tensor | None


@dataclass(frozen=True)
class Errors:
    """Log-ratios: the largest error over the sequences, in nats. Gradients: the larger relative error (L2) of dX and the sampled rows of dW."""

    log_ratio: float
    gradient: float


def _log_sum_exp(hidden: Tensor, weight: Tensor) -> Tensor:
    lse = torch.full((hidden.shape[0],), -torch.inf, dtype=torch.float64)
    for columns in weight.split(CHUNK):
        lse = torch.logaddexp(lse, (hidden @ columns.double().t()).logsumexp(-1))
    return lse


def _logps(hidden: Tensor, weight: Tensor, targets: Tensor, lse: Tensor) -> Tensor:
    return (hidden * weight[targets].double()).sum(-1) - lse


def truth(p: Problem) -> Truth:
    """Everything in float64."""
    with torch.no_grad():
        hidden, weight = p.hidden.double(), p.weight
        targets, active = p.targets.clamp(min=0), p.active
        lse = _log_sum_exp(hidden, weight)

        def sums(logps: Tensor) -> Tensor:
            return p.by_sequence(logps * active).sum(-1)

        policy = sums(_logps(hidden, weight, targets, lse))
        if p.ref_logps is None:
            reference_hidden = p.ref_hidden.double()
            reference_lse = _log_sum_exp(reference_hidden, p.ref_weight)
            reference = sums(_logps(reference_hidden, p.ref_weight, targets, reference_lse))
        else:
            reference = p.ref_logps.double()
        ratios = policy - reference
        chosen, rejected = ratios.chunk(2)
        slope = -BETA * torch.sigmoid(-BETA * (chosen - rejected)) / chosen.numel()
        per_sequence = torch.cat([slope, -slope])
        coef = per_sequence.repeat_interleave(p.targets.numel() // p.sequences) * active

        dx = coef[:, None] * weight[targets].double()
        for start in range(0, weight.shape[0], CHUNK):
            columns = weight[start : start + CHUNK].double()
            probs = (hidden @ columns.t() - lse[:, None]).exp_()
            dx -= coef[:, None] * (probs @ columns)
        entries = torch.unique(torch.cat([targets[active], torch.arange(min(SAMPLED_ENTRIES, weight.shape[0]))]))
        dw = None
        if weight.requires_grad:
            onehot = (targets[:, None] == entries).double()
            probs = (hidden @ weight[entries].double().t() - lse[:, None]).exp_()
            dw = (coef[:, None] * (onehot - probs)).t() @ hidden
    return Truth(ratios, dx, entries, dw)


def errors(p: Problem, result: Result, exact: Truth) -> Errors:
    """Of one contestant, whose gradients are in ``p``."""

    def relative(found: Tensor | None, expected: Tensor) -> float:
        if found is None:
            return float("inf")
        return float((found.double() - expected).norm() / expected.norm())

    gradients = [relative(p.hidden.grad, exact.dx)]
    if exact.dw is not None:
        gradients.append(relative(None if p.weight.grad is None else p.weight.grad[exact.entries], exact.dw))
    return Errors(float((result.log_ratios.double() - exact.log_ratios).abs().max()), max(gradients))
