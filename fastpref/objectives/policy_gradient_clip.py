"""Policy gradients with PPO's clip: the GRPO family (token or mean ratio, one class with presets) and RLOO (ratio of whole sequences)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_at_least, require_between
from .base import SequenceObjective, Traits
from .batch import SequenceBatch
from .policy_gradient import RatioObjective, clip_metrics, token_data
from .ratios import GREEDY, capped_ratio, clipped, clipped_ratio, importance_ratio
from .sampled import old_sums, require_per_sequence


def require_clip_range(epsilon: float, epsilon_high: float | None) -> None:
    """``epsilon`` in [0, 1], ``epsilon_high`` 0 or above."""
    require_between("epsilon", epsilon, 0.0, 1.0)
    if epsilon_high is not None:
        require_at_least("epsilon_high", epsilon_high, 0.0)


@dataclass(frozen=True)
class GRPO(RatioObjective):
    """Group relative policy optimisation and its relatives: ``-min(R A, clip(R, 1 - epsilon, 1 + epsilon_high) A) + beta k`` per token.

    The loss that TRL's GRPO trainer builds for its ``loss_type`` ``grpo`` (arXiv 2402.03300), ``dapo`` (2503.14476), ``bnpo``, ``dr_grpo`` (2503.20783) and
    ``luspo``; ``gspo`` (2507.18071) is ``importance_sampling_level="sequence"`` (the paper's clip range is 3e-4 and 4e-4). The advantages are data:
    :func:`fastpref.advantages.group_relative`. Where the clip holds, the derivative is 0.

    Args:
        beta, kl_estimator, use_bias_correction_kl, importance_sampling_level, loss_aggregation, max_completion_length: see
            :class:`~fastpref.objectives.policy_gradient.RatioObjective`.
        epsilon: lower clip range, in [0, 1].
        epsilon_high: upper clip range; ``None``: ``epsilon``. DAPO takes 0.28.
        delta: two-sided clip (arXiv 2505.07291): also ``R <= delta`` where the advantage is negative; at least ``1 + epsilon_high``; ``None``: off.
        dual_clip: the same bound under verl's name (``clip_ratio_c``, there 3; arXiv 1912.09729), above 1; ``None``: off.
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    dual_clip: float | None = None

    name: ClassVar[str] = "grpo"
    traits = Traits(
        scenario="BDA",
        target=GREEDY,
        formula="-min(R A, clip(R, 1 - epsilon, 1 + epsilon_high) A) + beta k",
        derivative="-R A, 0 where clipped; + beta dk/dlp",
        coupling="sequence",
        reference="none",
        paper="2402.03300",
        token_reduction="mean",
        level="token",
        data=("advantages",),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_clip_range(self.epsilon, self.epsilon_high)
        if self.delta is not None:
            upper = 1.0 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
            require_at_least("delta", self.delta, upper)
        if self.dual_clip is not None:
            require_between("dual_clip", self.dual_clip, 1.0, float("inf"), ends="()")
        super().__post_init__()

    def unregularised(self, ratio: Tensor, advantages: Tensor, logps: Tensor) -> Tensor:
        """``[T]``."""
        held = clipped_ratio(ratio, advantages, self.epsilon, self.epsilon_high)
        if self.delta is not None:
            held = capped_ratio(held, advantages, self.delta)
        if self.dual_clip is not None:
            held = capped_ratio(held, advantages, self.dual_clip)
        return -held * advantages

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Also how often the clip held."""
        with torch.no_grad():
            tokens = self.tokens_of(batch)
            advantages = token_data(batch, tokens, "advantages", per_sequence=True)
            ratio = importance_ratio(self.log_ratio(batch, tokens))
            low, high = clipped(ratio, advantages, self.epsilon, self.epsilon_high)
            return super().metrics(batch) | clip_metrics(batch, tokens, low, high, self.importance_sampling_level)


@dataclass(frozen=True)
class RLOO(SequenceObjective):
    """REINFORCE leave-one-out (arXiv 2402.14740) as TRL has it: PPO's clip on the ratio of whole sequences, ``-min(R A, clip(R) A)``.

    ``R = exp(sum_t(lp_t - lold_t))``, its logarithm clamped to +-20. Advantages are data, from rewards that have the KL in them:
    ``leave_one_out(scores - beta * sum_t(lold_t - lref_t), groups)`` of :mod:`fastpref.advantages`; with that ``beta`` above 0 (TRL: 0.05) the target is
    ``pi_ref exp(r / beta) / Z``. Needs ``advantages [K]``; takes ``old_logps``, sequence sums ``[K]`` or ``[T]`` (absent: the policy itself, ``R = 1``).

    Args:
        epsilon: lower clip range, in [0, 1].
        epsilon_high: upper clip range; ``None``: ``epsilon``.
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None

    name: ClassVar[str] = "rloo"
    traits = Traits(
        scenario="BDA",
        target="pi_ref exp(r/tau) / Z, with tau times the log-ratio taken from the rewards; without it " + GREEDY,
        formula="-min(R A, clip(R, 1 - epsilon, 1 + epsilon_high) A), R = exp(lp - lold)",
        derivative="-R A, 0 where clipped",
        coupling="sequence",
        reference="none",
        paper="2402.14740",
        data=("advantages",),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_clip_range(self.epsilon, self.epsilon_high)

    def check(self, batch: SequenceBatch) -> None:
        """One advantage per sequence."""
        super().check(batch)
        require_per_sequence(self.name, batch, "advantages")

    def ratio(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        old = old_sums(batch)
        return importance_ratio(batch.policy - (batch.policy.detach() if old is None else old))

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        advantages = batch.data["advantages"]
        return -clipped_ratio(self.ratio(batch), advantages, self.epsilon, self.epsilon_high) * advantages

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The mean log-prob, and which part of the sequences is clipped."""
        with torch.no_grad():
            low, high = clipped(self.ratio(batch), batch.data["advantages"], self.epsilon, self.epsilon_high)
            low, high = low.to(batch.policy.dtype), high.to(batch.policy.dtype)
            return {
                "logps/mean": batch.policy.mean(),
                "clip_ratio/low_mean": low.mean(),
                "clip_ratio/low_min": low.min(),
                "clip_ratio/high_mean": high.mean(),
                "clip_ratio/high_max": high.max(),
                "clip_ratio/region_mean": (low + high).mean(),
            }
