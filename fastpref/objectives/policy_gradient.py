"""What the token-level policy-gradient losses share: advantages, importance ratios, a KL term and the ways to aggregate tokens.

All take ``advantages`` (``[K]``, one per sequence, or ``[T]``; see :mod:`fastpref.advantages`) and optionally ``old_logps [T]``, the
log-probs of the policy that generated the samples; without them the samples are the policy's own: every ratio is 1 and its
derivative remains. Log-ratios to it are clamped to +-20 before ``exp``. What ignored rows hold never matters.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import require_at_least, require_choice, require_flag
from ..packing import wide_dtype
from .base import TokenObjective
from .batch import SequenceBatch, TokenBatch
from .ratios import KL_ESTIMATORS, KLEstimator, importance_ratio, kl_estimate, kl_target

AGGREGATIONS = ("grpo", "dapo", "bnpo", "dr_grpo", "luspo")
"""Ways to aggregate token losses, under TRL's ``loss_type``."""

_CANONICAL = {
    "token-mean": "dapo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum-norm": "dr_grpo",
    "seq-mean-token-sum": "luspo",
}
"""verl's ``loss_agg_mode`` for the same."""


def token_data(batch: SequenceBatch, tokens: TokenBatch, name: str, *, per_sequence: bool = False) -> Tensor:
    """Data ``[T]``, 0 on ignored rows.

    Args:
        batch: has the data.
        tokens: its rows.
        name: which.
        per_sequence: data ``[K]`` will do; each row gets its sequence's value.

    Raises:
        ValueError: another shape.
    """
    value = batch.data[name]
    if value.shape != tokens.policy.shape:
        if not per_sequence or value.shape != batch.policy.shape:
            wanted = f"[{tokens.policy.shape[0]}]" + (f" or [{batch.policy.shape[0]}]" if per_sequence else "")
            raise ValueError(f"{name}: expected shape {wanted}, found {list(value.shape)}")
        value = tokens.spread(value)
    return torch.where(tokens.active, value, torch.zeros_like(value))


def log_ratio_to_old(batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
    """``log pi - log pi_old``, ``[T]``; of samples of the policy itself, 0 with derivative 1."""
    if "old_logps" not in batch.data:
        return tokens.policy - tokens.policy.detach()
    old = token_data(batch, tokens, "old_logps")
    return torch.where(tokens.active, tokens.policy - old, torch.zeros_like(old))


def token_share(batch: SequenceBatch, total: Tensor) -> Tensor:
    """``[K]`` divisors with which the mean over the sequences of the call is the sum over tokens divided by ``total``."""
    total = total.to(wide_dtype(total.device))
    return (total / batch.call.lengths.shape[0]).expand(batch.policy.shape)


def clip_metrics(batch: SequenceBatch, tokens: TokenBatch, low: Tensor, high: Tensor, level: str) -> dict[str, Tensor]:
    """TRL's: which part of the tokens (or sequences, at level ``"sequence"``) is clipped, and the least and most over the sequences."""
    lows, highs = tokens.sums(low.to(tokens.policy.dtype)), tokens.sums(high.to(tokens.policy.dtype))
    per_low, per_high = lows / batch.lengths, highs / batch.lengths
    if level == "sequence":
        low_mean, high_mean = per_low.mean(), per_high.mean()
    else:
        low_mean, high_mean = lows.sum() / batch.token_total(), highs.sum() / batch.token_total()
    return {
        "clip_ratio/low_mean": low_mean,
        "clip_ratio/low_min": per_low.min(),
        "clip_ratio/high_mean": high_mean,
        "clip_ratio/high_max": per_high.max(),
        "clip_ratio/region_mean": low_mean + high_mean,
    }


@dataclass(frozen=True)
class KLRegularised(TokenObjective):
    """A token-level loss with an optional KL term ``beta * k`` per token, see :mod:`~fastpref.objectives.ratios` for the estimates.

    The table of targets there is for one-token responses (bandits). In longer ones the term regularises each token given its
    prefix and does not see how the token changes the KL of what follows; put the KL into the rewards
    (:func:`fastpref.advantages.kl_in_reward`) where that matters.
    """

    beta: float = 0.0
    kl_estimator: KLEstimator = "k3"

    def __post_init__(self) -> None:
        require_at_least("beta", self.beta, 0.0)
        require_choice("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        if self.beta > 0.0:
            self._declare(reference="required", target=kl_target(self.kl_estimator, self._corrects_kl()))

    def _corrects_kl(self) -> bool:
        return False

    def kl(self, tokens: TokenBatch, ratio: Tensor) -> Tensor | None:
        """``[T]`` the KL term's estimate, or ``None`` where ``beta`` is 0; ``ratio [T]`` corrects it where the objective says so."""
        if self.traits.reference != "required":
            return None
        if tokens.reference is None:
            raise ValueError(f"{self.name}: beta above 0 needs token log-probs of a reference, found none")
        d = torch.where(tokens.active, tokens.reference - tokens.policy, torch.zeros_like(tokens.policy))
        estimate = kl_estimate(self.kl_estimator, d)
        if not self._corrects_kl():
            return estimate
        return estimate * (ratio.detach() if self.kl_estimator == "k2" else ratio)


@dataclass(frozen=True)
class RatioObjective(KLRegularised):
    """A loss of the GRPO family: a function of each token's importance ratio ``R`` and advantage ``A``, plus a KL term, aggregated over tokens.

    Args:
        beta: weight of the KL term, 0 or above; above 0 a reference is required.
        kl_estimator: ``"k1"``, ``"k2"`` or ``"k3"`` as a loss. What they converge to without correction: ``k1`` the greedy optimum, ``k2``
            ``pi_ref exp(r / beta) / Z``, ``k3`` the forward-KL tilt ``beta pi_ref / (lambda - r)``.
        use_bias_correction_kl: multiply the estimate by ``R`` (``k2``: by the detached ``R``), as TRL does by default (arXiv 2512.02556): all
            three then have the gradient of ``KL(pi || pi_ref)`` at token level and converge to the Boltzmann target. Advantages that were
            divided by the group's standard deviation make its temperature ``beta * std``.
        importance_sampling_level: ``"token"``: ``R_t = exp(lp_t - lold_t)``; ``"sequence"`` (GSPO): ``R = exp(mean_t(lp_t - lold_t))``.
        loss_aggregation: ``"grpo"`` mean over a sequence's tokens, then over sequences; ``"dapo"`` sum over all tokens divided by
            ``num_items_in_batch`` (a scalar: the tokens of the whole accumulated batch; losses of the calls then add up) or, where it is not
            given, by the tokens of the call; ``"bnpo"`` always the latter; ``"dr_grpo"`` sum divided by ``max_completion_length``, then mean over
            sequences; ``"luspo"`` sum, then mean over sequences. verl's names for the same: ``"seq-mean-token-mean"``, ``"token-mean"``,
            ``"seq-mean-token-sum-norm"``, ``"seq-mean-token-sum"``.
        max_completion_length: for ``"dr_grpo"``, which needs it.
    """

    use_bias_correction_kl: bool = True
    importance_sampling_level: Literal["token", "sequence"] = "token"
    loss_aggregation: str = "grpo"
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        require_flag("use_bias_correction_kl", self.use_bias_correction_kl)
        require_choice("importance_sampling_level", self.importance_sampling_level, ("token", "sequence"))
        require_choice("loss_aggregation", self.loss_aggregation, (*AGGREGATIONS, *_CANONICAL))
        object.__setattr__(self, "loss_aggregation", _CANONICAL.get(self.loss_aggregation, self.loss_aggregation))
        if self.max_completion_length is not None:
            require_at_least("max_completion_length", self.max_completion_length, 1)
        elif self.loss_aggregation == "dr_grpo":
            raise ValueError(
                "max_completion_length: loss_aggregation 'dr_grpo' divides by it; expected a number, found None"
            )
        super().__post_init__()
        by_length = self.loss_aggregation in ("grpo", "dapo", "bnpo") or self.importance_sampling_level == "sequence"
        optional = ("old_logps", "num_items_in_batch") if self.loss_aggregation == "dapo" else ("old_logps",)
        self._declare(token_reduction="mean" if by_length else "sum", optional_data=optional)

    def _corrects_kl(self) -> bool:
        return self.use_bias_correction_kl

    @abstractmethod
    def unregularised(self, ratio: Tensor, advantages: Tensor, logps: Tensor) -> Tensor:
        """``[T]``, elementwise, before the KL term."""

    def log_ratio(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]`` logarithm of the importance ratio, at the level asked for."""
        log_ratio = log_ratio_to_old(batch, tokens)
        if self.importance_sampling_level == "token":
            return log_ratio
        return tokens.spread(tokens.sums(log_ratio) / batch.lengths)

    def token_losses(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]``."""
        ratio = importance_ratio(self.log_ratio(batch, tokens))
        advantages = token_data(batch, tokens, "advantages", per_sequence=True)
        losses = self.unregularised(ratio, advantages, tokens.policy)
        kl = self.kl(tokens, ratio)
        return losses if kl is None else losses + self.beta * kl

    def divisors(self, batch: SequenceBatch) -> Tensor:
        """``[K]``, see ``loss_aggregation``."""
        if self.loss_aggregation == "grpo":
            return batch.lengths
        if self.loss_aggregation == "luspo":
            return torch.ones_like(batch.policy)
        if self.loss_aggregation == "dr_grpo":
            return torch.full_like(batch.policy, float(self.max_completion_length or 0))
        total = batch.data.get("num_items_in_batch") if self.loss_aggregation == "dapo" else None
        return token_share(batch, batch.token_total() if total is None else total.clamp(min=1))

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The mean log-prob, and ``kl`` (token mean of the estimate) where there is a KL term."""
        with torch.no_grad():
            found, tokens = {"logps/mean": batch.policy.mean()}, self.tokens_of(batch)
            kl = self.kl(tokens, importance_ratio(self.log_ratio(batch, tokens)))
            if kl is not None:
                found["kl"] = tokens.sums(kl).sum() / batch.token_total()
            return found
