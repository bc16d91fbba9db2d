"""Nash-MD: a policy gradient on win probabilities with the KL as REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_at_least
from .base import TokenObjective, Traits
from .batch import SequenceBatch, TokenBatch
from .policy_gradient import token_data


@dataclass(frozen=True)
class NashMD(TokenObjective):
    """Nash mirror descent (arXiv 2312.00886): ``sum_t [beta sg(lp_t - lref_t) - (P - 1/2)] lp_t``, mean over sequences.

    Needs ``win_probs [K]``: ``P``, the probability that the policy's own sample is preferred to one of the geometric mixture of policy and
    reference. That mixture (``mixture_coef``) is a matter of the sampler, the loss does not see it.

    Args:
        beta: weight of the KL to the reference, 0 or above.
    """

    beta: float = 0.1

    name: ClassVar[str] = "nash_md"
    traits = Traits(
        scenario="BDA",
        target="Nash equilibrium of the preference game regularised by beta KL(pi || pi_ref)",
        formula="sum_t [beta sg(lp_t - lref_t) - (P - 1/2)] lp_t",
        derivative="beta (lp_t - lref_t) - (P - 1/2)",
        coupling="sequence",
        reference="required",
        paper="2312.00886",
        level="token",
        data=("win_probs",),
        surrogate=True,
    )

    def __post_init__(self) -> None:
        require_at_least("beta", self.beta, 0.0)

    def log_ratio(self, tokens: TokenBatch) -> Tensor:
        """``[T]``, detached."""
        if tokens.reference is None:
            raise ValueError(f"{self.name}: needs token log-probs of a reference, found none")
        difference = (tokens.policy - tokens.reference).detach()
        return torch.where(tokens.active, difference, torch.zeros_like(difference))

    def token_losses(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]``."""
        win = token_data(batch, tokens, "win_probs", per_sequence=True)
        return (self.beta * self.log_ratio(tokens) - (win - 0.5)) * tokens.policy

    def divisors(self, batch: SequenceBatch) -> Tensor:
        """``[K]``: 1."""
        return torch.ones_like(batch.lengths)

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The mean log-prob, the sequence KL estimate ``objective/kl`` and the mean win probability."""
        with torch.no_grad():
            tokens = self.tokens_of(batch)
            return {
                "logps/mean": batch.policy.mean(),
                "objective/kl": tokens.sums(self.log_ratio(tokens)).mean(),
                "win_probs/mean": batch.data["win_probs"].to(batch.policy.dtype).mean(),
            }
