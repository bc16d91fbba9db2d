"""Random calls of any objective of the family: log-probs and every kind of data, made from an objective's declared traits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastpref
from fastpref.objectives import OBJECTIVES, Objective

NEEDED: dict[str, dict[str, Any]] = {"dr_grpo": {"max_completion_length": 9}}
"""Hyper-parameters without a default."""

LENGTHS = [3, 2, 5, 1, 4, 2, 3, 4]
"""Rows of the eight sequences, two of four per prompt (or four pairs)."""


def make(name: str, **hyper: Any) -> Objective:
    return fastpref.objective(name, **{**NEEDED.get(name, {}), **hyper})


def variants() -> dict[str, Objective]:
    """Every name with its defaults, and those options that change what an objective declares."""
    found = {name: make(name) for name in OBJECTIVES}
    found["grpo+kl"] = make("grpo", beta=0.04)
    found["gspo+kl"] = make("gspo", beta=0.04)
    found["gmpo+kl"] = make("gmpo", beta=0.04)
    found["cispo+kl"] = make("cispo", beta=0.04, kl_estimator="k2")
    found["bda+exact"] = make("bda", kl="exact")
    found["bda+k3"] = make("bda", kl="k3")
    found["sigmoid+forward_kl"] = make("sigmoid", f_divergence_type="forward_kl")
    found["sigmoid+js"] = make("sigmoid", f_divergence_type="js_divergence")
    found["ipo+alpha+ld"] = make("ipo", f_divergence_type="alpha_divergence", ld_alpha=0.3)
    found["hinge+wpo"] = make("hinge", use_weighting=True)
    found["rpo"] = fastpref.objective(["sigmoid", "sft"], loss_weights=[1.0, 0.005], beta=0.01)
    found["mpo"] = fastpref.objective(["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    found["aot+sigmoid"] = fastpref.objective(["aot", "sigmoid"])
    return found


def data(objective: Objective, lengths: list[int], g: torch.Generator, *, optional: bool = True) -> dict[str, Tensor]:
    """What the objective asks for (and, with ``optional``, what it takes)."""
    sequences, rows = len(lengths), sum(lengths)
    token = objective.traits.level == "token"

    def normal(count: int) -> Tensor:
        return torch.randn(count, generator=g, dtype=torch.float64)

    def uniform(count: int) -> Tensor:
        return 0.05 + 0.9 * torch.rand(count, generator=g, dtype=torch.float64)

    made = {
        "desirable": lambda: torch.arange(sequences) % 3 != 0,
        "from_reference": lambda: torch.arange(sequences) % 2 == 0,
        "groups": lambda: torch.arange(sequences) * 2 // sequences * 7,
        "ranks": lambda: torch.arange(sequences) * 5 % sequences,
        "levels": lambda: torch.arange(sequences) % 3 + 1,
        "rewards": lambda: uniform(sequences),
        "quantiles": lambda: uniform(sequences),
        "win_probs": lambda: uniform(sequences),
        "desirable_probs": lambda: uniform(sequences),
        "log_z": lambda: normal(sequences),
        "baseline": lambda: normal(sequences),
        "advantages": lambda: normal(rows if token and objective.name != "gmpo" else sequences),
        "old_logps": lambda: -3.0 - uniform(rows),
        "values": lambda: normal(rows if token else sequences),
        "old_values": lambda: normal(rows),
        "returns": lambda: normal(rows),
        "sft_logps": lambda: -20.0 * uniform(sequences // 2),
        "mismatched_log_ratios": lambda: 1.0 + normal(5),
        "num_items_in_batch": lambda: torch.tensor(37.0, dtype=torch.float64),
    }
    traits = objective.traits
    names = [*traits.data, *(traits.optional_data if optional else ())]
    return {name: made[name]() for name in names if name != "lengths"}


def each(keep: Callable[[Objective], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrises a test by ``objective``: every variant that ``keep`` holds for."""
    chosen = {name: objective for name, objective in variants().items() if keep(objective)}
    return pytest.mark.parametrize("objective", [pytest.param(o, id=name) for name, o in sorted(chosen.items())])


@dataclass
class TokenCall:
    """A call of :func:`fastpref.preference_loss` with token log-probs."""

    objective: Objective
    policy: Tensor
    reference: Tensor | None
    kl: Tensor | None
    log_sum_sq_probs: Tensor | None
    cu_seqlens: Tensor
    data: dict[str, Tensor]

    def run(self, policy: Tensor | None = None, kl: Tensor | None = None, **options: Any) -> fastpref.PreferenceOutput:
        from fastpref.divergence import TokenKL
        from fastpref.token_logprobs import TokenLogProbs

        policy = self.policy if policy is None else policy
        kl = self.kl if kl is None else kl
        given: Any = policy
        if kl is not None:
            given = TokenKL(policy, policy, policy, policy, kl)
        elif self.log_sum_sq_probs is not None:
            given = TokenLogProbs(policy, policy, log_sum_sq_probs=self.log_sum_sq_probs)
        return fastpref.preference_loss(
            self.objective, given, self.reference, **{"cu_seqlens": self.cu_seqlens, **self.data, **options}
        )


def token_call(objective: Objective, lengths: list[int] = LENGTHS, seed: int = 0, **options: Any) -> TokenCall:
    """Token log-probs near -3 and a reference near them."""
    g = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    policy = -3.0 - torch.rand(rows, generator=g, dtype=torch.float64)
    near = policy + 0.3 * torch.randn(rows, generator=g, dtype=torch.float64)
    needs = objective.traits.vocabulary
    return TokenCall(
        objective,
        policy.requires_grad_(),
        None if objective.traits.reference == "none" else near,
        torch.rand(rows, generator=g, dtype=torch.float64).requires_grad_()
        if {"forward_kl", "reverse_kl"} & set(needs)
        else None,
        -torch.rand(rows, generator=g, dtype=torch.float64) if "log_sum_sq_probs" in needs else None,
        torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
        data(objective, lengths, g, **options),
    )


@dataclass
class LinearCall:
    """A call of :func:`fastpref.linear_preference_loss`, and its composition from full logits in plain PyTorch."""

    objective: Objective
    hidden: Tensor
    weight: Tensor
    bias: Tensor
    reference: tuple[Tensor, Tensor, Tensor]
    targets: Tensor
    cu_seqlens: Tensor
    data: dict[str, Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.weight, self.bias, *(d for d in self.data.values() if d.requires_grad)]

    def fused(self, **options: Any) -> fastpref.PreferenceOutput:
        reference = None if self.objective.traits.reference == "none" else self.reference
        return fastpref.linear_preference_loss(
            self.objective, self.hidden, self.weight, self.targets, self.cu_seqlens, bias=self.bias, reference=reference,
            **{**self.data, **options},
        )  # fmt: skip

    def plain(self) -> fastpref.PreferenceOutput:
        """Token log-probs, KL and squares from ``[T, V]`` log-softmax; the objective on them."""
        active = self.targets >= 0
        logp = F.log_softmax(F.linear(self.hidden, self.weight, self.bias), dim=-1)
        ref = F.log_softmax(F.linear(*self.reference), dim=-1)
        ids = self.targets.clamp_min(0)[:, None]
        policy, near = (x.gather(1, ids).squeeze(1).masked_fill(~active, 0.0) for x in (logp, ref))
        vocabulary = self.objective.traits.vocabulary
        kl = None
        if "forward_kl" in vocabulary:
            kl = (ref.exp() * (ref - logp)).sum(-1)
        elif "reverse_kl" in vocabulary:
            kl = (logp.exp() * (logp - ref)).sum(-1)
        squares = (2 * logp).logsumexp(-1).detach() if "log_sum_sq_probs" in vocabulary else None
        reference = None if self.objective.traits.reference == "none" else near
        return TokenCall(self.objective, policy, reference, kl, squares, self.cu_seqlens, self.data).run(mask=active)


def linear_call(
    objective: Objective,
    dtype: torch.dtype = torch.float64,
    lengths: list[int] = LENGTHS,
    seed: int = 0,
    vocab: int = 37,
    size: int = 6,
) -> LinearCall:
    """Two tokens of the third sequence are ignored; data that can be learnt (``values``) require a gradient."""
    g = torch.Generator().manual_seed(seed)
    rows = sum(lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    hidden, weight, bias = draw(rows, size), draw(vocab, size) / 2, draw(vocab)
    reference = tuple(t + 0.2 * draw(*t.shape) for t in (hidden, weight, bias))
    targets = torch.randint(0, vocab, (rows,), generator=g)
    targets[sum(lengths[:2]) + 1 : sum(lengths[:2]) + 3] = -100
    found = data(objective, lengths, g)
    if "values" in found:
        found["values"].requires_grad_()
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    return LinearCall(objective, hidden, weight, bias, reference, targets, cu_seqlens, found)  # type: ignore[arg-type]


def plans(objective: Objective) -> list[str]:
    """The plans that its declared traits allow."""
    traits = objective.traits
    if {"forward_kl", "reverse_kl"} & set(traits.vocabulary):
        return ["D0"]
    found = ["D0", "D3"]
    if traits.coupling != "batch":
        found.append("D1")
        known = traits.coupling == "sequence" or (traits.coupling == "pair" and traits.margin_only)
        takes_tokens = traits.vocabulary or "old_logps" in (*traits.data, *traits.optional_data)
        if known and traits.level == "sequence" and not takes_tokens:
            found.append("D2")
    return sorted(found)


def least_budget(call: LinearCall, plan: str, **options: Any) -> int:
    """The smallest budget with which the plan can be used."""
    return refused_budget(lambda **limit: call.fused(plan=plan, **limit, **options))


def refused_budget(run: Callable[..., Any]) -> int:
    """The budget that ``run`` names as the least for the plan that it asks for, or for any."""
    with pytest.raises(ValueError, match="budget") as refused:
        run(budget_bytes=1)
    return int(re.search(r"(?:at least |the scratch \(|gradients \()(\d+)", str(refused.value)).group(1))


def deviation(call: LinearCall, **options: Any) -> tuple[float, float]:
    """The largest relative deviation of the fused loss and of its gradients from the plain composition."""
    results = []
    for run in (call.plain, lambda: call.fused(**options)):
        for leaf in call.leaves:
            leaf.grad = None
        out = run()
        out.loss.backward()
        results.append(
            (out.loss.detach(), [torch.zeros_like(x) if x.grad is None else x.grad.clone() for x in call.leaves])
        )
    (loss_a, grads_a), (loss_b, grads_b) = results
    worst = max(
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-3 * float(grads_a[0].abs().max()) + 1e-30))
        for a, b in zip(grads_a, grads_b, strict=True)
    )
    return float((loss_a - loss_b).abs() / loss_a.abs().clamp_min(1e-12)), worst
