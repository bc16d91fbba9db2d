"""Losses on single responses labelled desirable or not: ``desirable [K]`` bool.

In the texts ``h`` is the log-ratio of a response to the reference, required because the loss is not invariant to a shift of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import require_at_least, require_positive
from ..base import SequenceObjective, Traits
from ..batch import SequenceBatch
from ..functions import sigmoid, softplus


def unpaired_metrics(beta: float, batch: SequenceBatch) -> dict[str, Tensor]:
    """TRL's metrics of labelled single responses, as batch means; NaN where the batch has no response with that label.

    Both means of a batch come from different prompts, so there is no accuracy.
    """
    with torch.no_grad():
        desirable = batch.data["desirable"].bool()
        rewards = beta * batch.log_ratio()
        found = {
            "rewards/chosen": _mean(rewards, desirable),
            "rewards/rejected": _mean(rewards, ~desirable),
            "logps/chosen": _mean(batch.policy, desirable),
            "logps/rejected": _mean(batch.policy, ~desirable),
        }
        return {**found, "rewards/margins": found["rewards/chosen"] - found["rewards/rejected"]}


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, torch.zeros_like(values)).sum() / where.sum()


@dataclass(frozen=True)
class APOZeroUnpaired(SequenceObjective):
    """Anchored preference optimisation on single responses, ``apo_zero_unpaired`` of TRL's KTO trainer (arXiv 2408.06266): KTO at ``z0 = 0``.

    Desirable ``desirable_weight (1 - sigmoid(beta h))``, undesirable ``undesirable_weight sigmoid(beta h)``.

    Args:
        beta: temperature; above 0.
        desirable_weight: 0 or above.
        undesirable_weight: 0 or above.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    name: ClassVar[str] = "apo_zero_unpaired"
    traits = Traits(
        scenario="PRA",
        target="none that is finite: monotone in h of each response",
        formula="desirable: desirable_weight (1 - sigmoid(beta h)); else undesirable_weight sigmoid(beta h)",
        derivative="-desirable_weight beta sigmoid'(beta h); else +undesirable_weight beta sigmoid'(beta h)",
        coupling="sequence",
        reference="required",
        paper="2408.06266",
        data=("desirable",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_at_least("desirable_weight", self.desirable_weight, 0.0)
        require_at_least("undesirable_weight", self.undesirable_weight, 0.0)

    def anchor(self, batch: SequenceBatch) -> Tensor | float:
        """``z0``, the log-ratio that counts as neutral."""
        return 0.0

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        x = self.beta * (batch.log_ratio() - self.anchor(batch))
        desirable, undesirable = self.desirable_weight * sigmoid(-x), self.undesirable_weight * sigmoid(x)
        return torch.where(batch.data["desirable"].bool(), desirable, undesirable)

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """See :func:`unpaired_metrics`."""
        return unpaired_metrics(self.beta, batch)


@dataclass(frozen=True)
class KTO(APOZeroUnpaired):
    """Kahneman-Tversky optimisation, TRL's ``kto`` (arXiv 2402.01306): a sigmoid around the policy's mean divergence from the reference.

    ``z0 = max(0, mean(mismatched_log_ratios))``, detached; desirable ``desirable_weight (1 - sigmoid(beta (h - z0)))``, undesirable
    ``undesirable_weight (1 - sigmoid(beta (z0 - h)))``. Given ``z0`` the loss separates by sequence.

    Data: ``desirable [K]``; ``mismatched_log_ratios [M]``, log-ratios of completions under prompts that are not theirs (TRL shifts the
    completions of a batch by one), over all devices.
    """

    name: ClassVar[str] = "kto"
    traits = Traits(
        scenario="PRA",
        target="none that is finite at a fixed z0: monotone in h of each response",
        formula="desirable: desirable_weight sigmoid(-beta (h - z0)); else undesirable_weight sigmoid(beta (h - z0))",
        derivative="-desirable_weight beta sigmoid'(beta (h - z0)); else +undesirable_weight beta sigmoid'(beta (h - z0))",
        coupling="sequence",
        reference="required",
        paper="2402.01306",
        data=("desirable", "mismatched_log_ratios"),
    )

    def anchor(self, batch: SequenceBatch) -> Tensor:
        """``z0``."""
        return batch.call_number("mean_mismatched_log_ratio").clamp(min=0.0)

    def check(self, batch: SequenceBatch) -> None:
        """At least one mismatched log-ratio."""
        super().check(batch)
        if batch.data["mismatched_log_ratios"].numel() == 0:
            raise ValueError(f"{self.name}: mismatched_log_ratios: expected at least one, found none")

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Further TRL's ``kl``, which is ``z0``."""
        return {**super().metrics(batch), "kl": self.anchor(batch)}


@dataclass(frozen=True)
class BCO(SequenceObjective):
    """Binary classifier optimisation (arXiv 2404.04656): a classifier of responses, shifted by the mean implicit reward of the run.

    Desirable ``softplus(-(beta h - delta))``, undesirable ``w softplus(beta h - delta)``, where ``delta`` is the detached mean of ``beta h`` over
    all sequences seen so far, this call's included.

    Data: ``desirable [K]``. Optional: ``desirable_probs [K]``, a classifier's ``p = P(desirable | prompt)``, for underlying distribution matching:
    ``w = clip(p / (1 - p), min_density_ratio, max_density_ratio)``; without it ``w = 1``.

    State: ``reward_sum``, ``reward_count``.

    Args:
        beta: temperature; above 0.
        min_density_ratio: above 0.
        max_density_ratio: ``min_density_ratio`` or above.
    """

    beta: float = 0.1
    min_density_ratio: float = 0.5
    max_density_ratio: float = 10.0

    name: ClassVar[str] = "bco"
    traits = Traits(
        scenario="PRA",
        target="per response beta h = delta + logit P(y > mu)",
        formula="desirable: softplus(-(beta h - delta)); else w softplus(beta h - delta); delta = sg[running mean of beta h]",
        derivative="-beta sigmoid(-(beta h - delta)); else w beta sigmoid(beta h - delta)",
        coupling="batch",
        reference="required",
        paper="2404.04656",
        data=("desirable",),
        optional_data=("desirable_probs",),
        stateful=True,
        surrogate=True,
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_positive("min_density_ratio", self.min_density_ratio)
        require_at_least("max_density_ratio", self.max_density_ratio, self.min_density_ratio)

    def initial_state(self) -> dict[str, Tensor]:
        """Nothing seen."""
        return {"reward_sum": torch.zeros((), dtype=torch.float64), "reward_count": torch.zeros((), dtype=torch.int64)}

    def next_state(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """With the sum and the number of this call's rewards added."""
        rewards = self.beta * batch.log_ratio().detach()
        return {
            "reward_sum": batch.state["reward_sum"].to(rewards) + rewards.sum(),
            "reward_count": batch.state["reward_count"] + rewards.shape[0],
        }

    def shift(self, batch: SequenceBatch) -> Tensor:
        """``delta``."""
        return (batch.state["reward_sum"] / batch.state["reward_count"]).to(batch.policy)

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        x = self.beta * batch.log_ratio() - self.shift(batch)
        undesirable = softplus(x)
        if "desirable_probs" in batch.data:
            p = batch.data["desirable_probs"].detach().to(x.dtype)
            undesirable = torch.clamp(p / (1.0 - p), self.min_density_ratio, self.max_density_ratio) * undesirable
        return torch.where(batch.data["desirable"].bool(), softplus(-x), undesirable)

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """See :func:`unpaired_metrics`; further ``delta``, the shift."""
        return {**unpaired_metrics(self.beta, batch), "delta": self.shift(batch)}
