"""Token-level DPO: pairwise losses with a KL over the whole vocabulary, whose gradient reaches every logit.

``K = sum_t KL(pi_ref,t || pi_t)`` of a sequence comes as the differentiable ``batch.kl [K]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...errors import require_at_least, require_positive
from ..base import PairwiseObjective, Traits
from ..batch import SequenceBatch
from ..functions import softplus


@dataclass(frozen=True)
class TDPO1(PairwiseObjective):
    """Token-level DPO, first form (arXiv 2404.11999): ``softplus(-z)``, ``z = beta (h_w - h_l - (K_l - K_w))``.

    Args:
        beta: temperature; above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "tdpo1"
    traits = Traits(
        scenario="PRA",
        target="pi_ref exp(r/tau) / Z per token, tau = beta",
        formula="softplus(-z), z = beta (h_w - h_l - (K_l - K_w)), K = sum_t KL(pi_ref,t || pi_t)",
        derivative="a_w = -beta sigmoid(-z) = -a_l; the same by K_w and by K_l",
        coupling="pair",
        reference="required",
        paper="2404.11999",
        vocabulary=("forward_kl",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        k_w, k_l = self._kl(chosen), self._kl(rejected)
        return softplus(-self.beta * (chosen.log_ratio() - rejected.log_ratio() - (k_l - k_w)))

    def _kl(self, batch: SequenceBatch) -> Tensor:
        if batch.kl is None:
            raise ValueError(f"{self.name}: needs the KL over the vocabulary, which sequence log-probs do not hold")
        return batch.kl


@dataclass(frozen=True)
class TDPO2(TDPO1):
    """Token-level DPO, second form (arXiv 2404.11999): ``z = beta (h_w - h_l - alpha (K_l - sg[K_w]))``, no gradient through ``K_w``.

    Args:
        alpha: weight of the KL difference; 0 or above.
    """

    alpha: float = 0.5

    name: ClassVar[str] = "tdpo2"
    traits = Traits(
        scenario="PRA",
        target="pi_ref exp(r/tau) / Z per token, tau = beta",
        formula="softplus(-z), z = beta (h_w - h_l - alpha (K_l - sg[K_w])), K = sum_t KL(pi_ref,t || pi_t)",
        derivative="a_w = -beta sigmoid(-z) = -a_l; alpha beta sigmoid(-z) by K_l, 0 by K_w",
        coupling="pair",
        reference="required",
        paper="2404.11999",
        vocabulary=("forward_kl",),
        surrogate=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("alpha", self.alpha, 0.0)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        k_w, k_l = self._kl(chosen).detach(), self._kl(rejected)
        return softplus(-self.beta * (chosen.log_ratio() - rejected.log_ratio() - self.alpha * (k_l - k_w)))
