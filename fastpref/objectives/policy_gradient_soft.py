"""Policy gradients that replace PPO's clip: CISPO (weights clipped), SAPO (a smooth gate), GMPO (geometric mean of clipped ratios)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_at_least, require_positive
from .base import Traits
from .batch import SequenceBatch, TokenBatch
from .functions import sigmoid
from .policy_gradient import KLRegularised, RatioObjective, clip_metrics, log_ratio_to_old, token_data
from .ratios import GREEDY, clipped, clipped_ratio, importance_ratio
from .sampled import require_per_sequence


@dataclass(frozen=True)
class CISPO(RatioObjective):
    """Clipped importance-sampling weights (arXiv 2506.13585): ``-sg[min(R, epsilon_high)] A lp + beta k`` per token; no token loses its gradient.

    Args:
        beta, kl_estimator, use_bias_correction_kl, importance_sampling_level, loss_aggregation, max_completion_length: see
            :class:`~fastpref.objectives.policy_gradient.RatioObjective`; here ``loss_aggregation`` is ``"dapo"``.
        epsilon_high: the largest weight (not a distance from 1), above 0; 5 is the choice of arXiv 2510.13786.
    """

    loss_aggregation: str = "dapo"
    epsilon_high: float = 5.0

    name: ClassVar[str] = "cispo"
    traits = Traits(
        scenario="BDA",
        target=GREEDY,
        formula="-sg[min(R, epsilon_high)] A lp + beta k",
        derivative="-min(R, epsilon_high) A + beta dk/dlp",
        coupling="sequence",
        reference="none",
        paper="2506.13585",
        token_reduction="mean",
        level="token",
        data=("advantages",),
        optional_data=("old_logps",),
        surrogate=True,
    )

    def __post_init__(self) -> None:
        require_positive("epsilon_high", self.epsilon_high)
        super().__post_init__()

    def unregularised(self, ratio: Tensor, advantages: Tensor, logps: Tensor) -> Tensor:
        """``[T]``."""
        return -torch.clamp(ratio, max=self.epsilon_high).detach() * advantages * logps

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Also which part of the tokens has its weight clipped at a positive advantage."""
        with torch.no_grad():
            tokens = self.tokens_of(batch)
            advantages = token_data(batch, tokens, "advantages", per_sequence=True)
            ratio = importance_ratio(self.log_ratio(batch, tokens))
            held = (ratio > self.epsilon_high) & (advantages > 0)
            share = clip_metrics(batch, tokens, torch.zeros_like(held), held, self.importance_sampling_level)
            return super().metrics(batch) | {"cispo_clip_ratio": share["clip_ratio/high_mean"]}


@dataclass(frozen=True)
class SAPO(RatioObjective):
    """Soft adaptive policy optimisation (arXiv 2511.20347): ``-A 4 sigmoid(kappa (R - 1)) / kappa + beta k`` per token.

    The derivative ``-4 A sigmoid'(kappa (R - 1)) R`` is the plain policy gradient at ``R = 1`` and fades away from it.

    Args:
        beta, kl_estimator, use_bias_correction_kl, importance_sampling_level, loss_aggregation, max_completion_length: see
            :class:`~fastpref.objectives.policy_gradient.RatioObjective`.
        sapo_temperature_pos: ``kappa`` where the advantage is positive, above 0.
        sapo_temperature_neg: ``kappa`` elsewhere, above 0.
    """

    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05

    name: ClassVar[str] = "sapo"
    traits = Traits(
        scenario="BDA",
        target=GREEDY,
        formula="-A 4 sigmoid(kappa (R - 1)) / kappa + beta k",
        derivative="-4 A sigmoid'(kappa (R - 1)) R + beta dk/dlp",
        coupling="sequence",
        reference="none",
        paper="2511.20347",
        token_reduction="mean",
        level="token",
        data=("advantages",),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_positive("sapo_temperature_pos", self.sapo_temperature_pos)
        require_positive("sapo_temperature_neg", self.sapo_temperature_neg)
        super().__post_init__()

    def unregularised(self, ratio: Tensor, advantages: Tensor, logps: Tensor) -> Tensor:
        """``[T]``."""
        zero = torch.zeros_like(advantages)
        kappa = torch.where(advantages > 0, zero + self.sapo_temperature_pos, zero + self.sapo_temperature_neg)
        return -advantages * sigmoid(kappa * (ratio - 1.0)) * 4.0 / kappa


@dataclass(frozen=True)
class GMPO(KLRegularised):
    """Geometric-mean policy optimisation (arXiv 2507.20673): ``-A exp(mean_t c_t) + beta mean_t k_t``, mean over sequences.

    ``c_t`` is ``lp_t - lold_t`` with PPO's one-sided clip in log space: at most ``epsilon_high`` where ``A > 0``, at least ``-epsilon`` elsewhere; a clipped token
    has derivative 0. Needs ``advantages [K]``.

    Args:
        beta: weight of the KL term, 0 or above; above 0 a reference is required.
        kl_estimator: see :class:`~fastpref.objectives.policy_gradient.RatioObjective`; never bias-corrected here (as TRL).
        epsilon: lower clip range of the log-ratio, 0 or above.
        epsilon_high: upper clip range of the log-ratio; ``None``: ``epsilon``.
    """

    epsilon: float = 0.4
    epsilon_high: float | None = None

    name: ClassVar[str] = "gmpo"
    traits = Traits(
        scenario="BDA",
        target=GREEDY,
        formula="-A exp(mean_t c_t) + beta mean_t k_t",
        derivative="-A exp(mean_t c_t) / T, 0 on clipped tokens; + beta dk/dlp / T",
        coupling="sequence",
        reference="none",
        paper="2507.20673",
        token_reduction="mean",
        level="token",
        data=("advantages",),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_at_least("epsilon", self.epsilon, 0.0)
        if self.epsilon_high is not None:
            require_at_least("epsilon_high", self.epsilon_high, 0.0)
        super().__post_init__()

    def check(self, batch: SequenceBatch) -> None:
        """One advantage per sequence."""
        super().check(batch)
        require_per_sequence(self.name, batch, "advantages")

    def token_losses(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]``: every token carries its sequence's loss, of which the mean over tokens is taken."""
        advantages = token_data(batch, tokens, "advantages", per_sequence=True)
        log_ratio = clipped_ratio(
            log_ratio_to_old(batch, tokens), advantages, self.epsilon, self.epsilon_high, center=0.0
        )
        ratio = importance_ratio(tokens.spread(tokens.sums(log_ratio) / batch.lengths))
        kl = self.kl(tokens, ratio)
        return -ratio * advantages if kl is None else -ratio * advantages + self.beta * kl

    def divisors(self, batch: SequenceBatch) -> Tensor:
        """``[K]``: the lengths."""
        return batch.lengths

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The mean log-prob, how often the clip held, and ``kl`` where there is a KL term."""
        with torch.no_grad():
            tokens = self.tokens_of(batch)
            advantages = token_data(batch, tokens, "advantages", per_sequence=True)
            log_ratio = log_ratio_to_old(batch, tokens)
            low, high = clipped(log_ratio, advantages, self.epsilon, self.epsilon_high, center=0.0)
            found = {"logps/mean": batch.policy.mean()} | clip_metrics(batch, tokens, low, high, "token")
            kl = self.kl(tokens, log_ratio)
            if kl is not None:
                found["kl"] = tokens.sums(kl).sum() / batch.token_total()
            return found
