"""Proximal policy optimisation: the clipped policy loss and the clipped value loss in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_at_least, require_between, require_positive
from .base import TokenObjective, Traits
from .batch import SequenceBatch, TokenBatch
from .policy_gradient import clip_metrics, log_ratio_to_old, token_data, token_share
from .ratios import GREEDY, capped_ratio, clipped, clipped_ratio, importance_ratio


@dataclass(frozen=True)
class PPO(TokenObjective):
    """Proximal policy optimisation (arXiv 1707.06347), mean over all tokens of the call of::

        -min(R A, clip(R, 1 +- cliprange) A) + vf_coef / 2 max((V - G)^2, (clip(V, V_old +- cliprange_value) - G)^2)

    Needs ``advantages`` (``[T]`` from :func:`fastpref.advantages.gae`, or ``[K]``), ``values``, ``old_values`` and ``returns`` (``V``, ``V_old``, ``G``, all ``[T]``);
    ``values`` may require a gradient and gets it from the loss. The KL belongs in the rewards (:func:`fastpref.advantages.kl_in_reward`): with weight ``tau``
    there the target is ``pi_ref exp(r / tau) / Z``. Takes ``old_logps [T]``.

    Args:
        cliprange: of the ratio, in [0, 1].
        cliprange_value: of the values, above 0.
        vf_coef: weight of the value loss, 0 or above.
        dual_clip: also ``R <= dual_clip`` where the advantage is negative (arXiv 1912.09729; 3 there), above 1; ``None``: off.
    """

    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    dual_clip: float | None = None

    name: ClassVar[str] = "ppo"
    traits = Traits(
        scenario="BDA",
        target="pi_ref exp(r/tau) / Z, with tau times the log-ratio taken from the rewards; without it " + GREEDY,
        formula="-min(R A, clip(R) A) + vf_coef / 2 max((V - G)^2, (clip(V) - G)^2)",
        derivative="-R A, 0 where clipped; d/dV = vf_coef (V - G), 0 where clipped",
        coupling="sequence",
        reference="none",
        paper="1707.06347",
        token_reduction="mean",
        level="token",
        data=("advantages", "values", "old_values", "returns"),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_between("cliprange", self.cliprange, 0.0, 1.0)
        require_positive("cliprange_value", self.cliprange_value)
        require_at_least("vf_coef", self.vf_coef, 0.0)
        if self.dual_clip is not None:
            require_between("dual_clip", self.dual_clip, 1.0, float("inf"), ends="()")

    def token_losses(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]``."""
        advantages = token_data(batch, tokens, "advantages", per_sequence=True)
        ratio = importance_ratio(log_ratio_to_old(batch, tokens))
        ratio = clipped_ratio(ratio, advantages, self.cliprange)
        if self.dual_clip is not None:
            ratio = capped_ratio(ratio, advantages, self.dual_clip)
        return -ratio * advantages + 0.5 * self.vf_coef * self.value_errors(batch, tokens)[0]

    def value_errors(self, batch: SequenceBatch, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """``[T]`` the larger square, and where it is the clipped one."""
        values, old, returns = (token_data(batch, tokens, name) for name in ("values", "old_values", "returns"))
        # Not torch.clamp: the bounds are tensors around a tensor, and a value on the bound keeps its gradient.
        near = torch.minimum(torch.maximum(values.detach(), old - self.cliprange_value), old + self.cliprange_value)
        held, free = (near - returns) ** 2, (values - returns) ** 2
        inside = held > free
        return torch.where(inside, held, free), inside

    def divisors(self, batch: SequenceBatch) -> Tensor:
        """``[K]``: the tokens of the call, as a share of each sequence."""
        return token_share(batch, batch.token_total())

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The mean log-prob, how often the clip held, ``loss/value`` (before ``vf_coef``) and ``val/clip_ratio``."""
        with torch.no_grad():
            tokens, count = self.tokens_of(batch), batch.token_total()
            advantages = token_data(batch, tokens, "advantages", per_sequence=True)
            ratio = importance_ratio(log_ratio_to_old(batch, tokens))
            low, high = clipped(ratio, advantages, self.cliprange)
            errors, inside = self.value_errors(batch, tokens)
            return {
                "logps/mean": batch.policy.mean(),
                **clip_metrics(batch, tokens, low, high, "token"),
                "loss/value": 0.5 * tokens.sums(errors).sum() / count,
                "val/clip_ratio": tokens.sums(inside.to(errors.dtype)).sum() / count,
            }
