"""Pairwise losses of one margin ``z = beta * (score_w - score_l)``: ``d loss / d s = (+beta phi, -beta phi)`` with ``phi = d loss / dz``.

A score is the log-ratio ``h``, unless another f-divergence is chosen. In the texts ``p`` is the probability with which the label prefers
the chosen response, ``eps`` is ``label_smoothing``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...errors import require_at_least, require_between, require_positive
from ..base import BOLTZMANN, Traits
from ..batch import SequenceBatch
from ..dpo_family import DPOFamily
from ..functions import (
    bernoulli_kl,
    clamped_exp,
    log_of,
    log_sigmoid,
    relu,
    sigmoid,
    smoothed_softplus,
    softplus,
)


def _traits(target: str, formula: str, derivative: str, paper: str, data: tuple[str, ...] = ()) -> Traits:
    """What the losses of this file have in common."""
    return Traits(
        scenario="PRA",
        target=target,
        formula=formula,
        derivative=f"phi = {derivative}",
        coupling="pair",
        reference="optional",
        margin_only=True,
        paper=paper,
        data=data,
    )


@dataclass(frozen=True)
class DPO(DPOFamily):
    """Direct preference optimisation, TRL's ``sigmoid`` (arXiv 2305.18290): hard-label PRA, ``-log sigmoid(z)``.

    ``h`` is the sequence log-ratio to the reference (posterior version, PRA-P), or the sequence log-probability where there is no
    reference (prior-free PRA, a uniform reference).
    """

    name: ClassVar[str] = "sigmoid"
    traits = _traits(BOLTZMANN, "softplus(-z)", "-sigmoid(-z)", "2305.18290")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return softplus(-self.z(chosen, rejected))


@dataclass(frozen=True)
class CDPO(DPOFamily):
    """Conservative DPO (E. Mitchell's note, ericmitchell.ai/cdpo.pdf): ``(1 - eps) softplus(-z) + eps softplus(z)``.

    Args:
        label_smoothing: ``eps``, the probability that a label is flipped, in [0, 0.5]; 0 is DPO.
    """

    label_smoothing: float = 0.0

    name: ClassVar[str] = "cdpo"
    traits = _traits(
        "per pair z = logit((1 - eps) p + eps (1 - p)): shrunk, not Boltzmann in r",
        "(1 - eps) softplus(-z) + eps softplus(z)",
        "sigmoid(z) - (1 - eps)",
        "ericmitchell.ai/cdpo.pdf",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("label_smoothing", self.label_smoothing, 0.0, 0.5)

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return smoothed_softplus(self.z(chosen, rejected), self.label_smoothing)


@dataclass(frozen=True)
class RobustDPO(DPOFamily):
    """Robust DPO, TRL's ``robust`` (arXiv 2403.00409): unbiased under labels that are flipped with a known probability ``eps``.

    ``((1 - eps) softplus(-z) - eps softplus(z)) / (1 - 2 eps)``; not bounded below where ``eps > 0``.

    Args:
        label_smoothing: ``eps`` in [0, 0.5); 0 is DPO, the paper takes 0.1.
    """

    label_smoothing: float = 0.0

    name: ClassVar[str] = "robust"
    traits = _traits(
        f"{BOLTZMANN}, on labels flipped with probability eps",
        "((1 - eps) softplus(-z) - eps softplus(z)) / (1 - 2 eps)",
        "-((1 - eps) sigmoid(-z) + eps sigmoid(z)) / (1 - 2 eps)",
        "2403.00409",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("label_smoothing", self.label_smoothing, 0.0, 0.5, ends="[)")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        z, eps = self.z(chosen, rejected), self.label_smoothing
        return ((1.0 - eps) * softplus(-z) - eps * softplus(z)) / (1.0 - 2.0 * eps)


@dataclass(frozen=True)
class Hinge(DPOFamily):
    """RSO's hinge, TRL's ``hinge`` (arXiv 2309.06657): ``max(0, 1 - z)``; with ``beta`` 0.1 the kink is at a log-ratio margin of 10."""

    name: ClassVar[str] = "hinge"
    traits = _traits("per pair z = sign(2p - 1): keeps the order only", "max(0, 1 - z)", "-1[z < 1]", "2309.06657")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return relu(1.0 - self.z(chosen, rejected))


@dataclass(frozen=True)
class EXOPair(DPOFamily):
    """Efficient exact optimisation on pairs, TRL's ``exo_pair`` (arXiv 2402.00856): the reverse KL to smoothed labels.

    ``q log(q / (1 - eps)) + (1 - q) log((1 - q) / eps)``, ``q = sigmoid(z)``.

    Args:
        label_smoothing: ``eps`` in (0, 0.5).
    """

    label_smoothing: float = 1e-3

    name: ClassVar[str] = "exo_pair"
    traits = _traits(
        "per pair z = (2p - 1) log((1 - eps) / eps): bounded, like IPO",
        "q log(q / (1 - eps)) + (1 - q) log((1 - q) / eps), q = sigmoid(z)",
        "sigmoid(z) sigmoid(-z) (z - log((1 - eps) / eps))",
        "2402.00856",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("label_smoothing", self.label_smoothing, 0.0, 0.5, ends="()")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        z, eps = self.z(chosen, rejected), self.label_smoothing
        first = sigmoid(z) * (log_sigmoid(z) - log_of(1.0 - eps))
        return first + sigmoid(-z) * (log_sigmoid(-z) - log_of(eps))


@dataclass(frozen=True)
class DiscoPOP(DPOFamily):
    """The loss that a language model discovered, TRL's ``discopop`` (arXiv 2406.08414); not convex.

    ``(1 - m) softplus(-z) + m e^-z``, ``m = sigmoid(z / discopop_tau)``; ``m e^-z`` is formed in the exponent, clamped at 80. The paper's
    ``beta`` is 0.05.

    Args:
        discopop_tau: temperature of the blend; above 0.
    """

    discopop_tau: float = 0.05

    name: ClassVar[str] = "discopop"
    traits = _traits(
        "none in closed form",
        "(1 - m) softplus(-z) + m e^-z, m = sigmoid(z / discopop_tau)",
        "m (1 - m) / discopop_tau (e^-z - softplus(-z)) - (1 - m) sigmoid(-z) - m e^-z",
        "2406.08414",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("discopop_tau", self.discopop_tau)

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        z = self.z(chosen, rejected)
        blend = z / self.discopop_tau
        return sigmoid(-blend) * softplus(-z) + clamped_exp(log_sigmoid(blend) - z)


@dataclass(frozen=True)
class GPOExponential(DPOFamily):
    """GPO with the exponential loss (arXiv 2402.05749): ``e^-z``, the exponent clamped at 80 (derivative 0 beyond)."""

    name: ClassVar[str] = "gpo_exponential"
    traits = _traits("pi_ref exp(r/tau) / Z, tau = 2 beta", "e^-z (exponent clamped at 80)", "-e^-z", "2402.05749")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return clamped_exp(-self.z(chosen, rejected))


@dataclass(frozen=True)
class GPOSquared(DPOFamily):
    """GPO with the squared loss (arXiv 2402.05749): ``(z - 1)^2``, IPO on sums up to its scale."""

    name: ClassVar[str] = "gpo_squared"
    traits = _traits("per pair z = 2p - 1", "(z - 1)^2", "2 (z - 1)", "2402.05749")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return (self.z(chosen, rejected) - 1.0) ** 2


@dataclass(frozen=True)
class GPOTruncatedSquared(DPOFamily):
    """GPO with the truncated squared loss (arXiv 2402.05749): ``max(0, 1 - z)^2``."""

    name: ClassVar[str] = "gpo_truncated_squared"
    traits = _traits("per pair z = 2p - 1", "max(0, 1 - z)^2", "-2 max(0, 1 - z)", "2402.05749")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return relu(1.0 - self.z(chosen, rejected)) ** 2


@dataclass(frozen=True)
class GPOSavage(DPOFamily):
    """GPO with the Savage loss (arXiv 2402.05749): ``1 / (1 + e^z)^2``; bounded, so it forgets pairs far on the wrong side."""

    name: ClassVar[str] = "gpo_savage"
    traits = _traits(BOLTZMANN, "sigmoid(-z)^2", "-2 sigmoid(-z)^2 sigmoid(z)", "2402.05749")

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return sigmoid(-self.z(chosen, rejected)) ** 2


@dataclass(frozen=True)
class RewardAwareLoss(DPOFamily):
    """Reward-aware preference optimisation (arXiv 2406.11704, 2502.00203): ``z`` against the margin of given rewards.

    ``g = gt_reward_scale * (r_w - r_l)``; data: ``rewards [K]``.

    Args:
        beta: the papers' ``ref_policy_kl_penalty``; above 0.
        gt_reward_scale: scale of the given rewards; above 0.
    """

    gt_reward_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("gt_reward_scale", self.gt_reward_scale)

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        z = self.z(chosen, rejected)
        given = chosen.data["rewards"].to(z.dtype) - rejected.data["rewards"].to(z.dtype)
        return self.distance(z, self.gt_reward_scale * given)

    @abstractmethod
    def distance(self, z: Tensor, g: Tensor) -> Tensor:
        """``[N]``, how far the margins ``z`` of the implicit rewards are from the margins ``g`` of the given ones."""


SCALED_BOLTZMANN = "pi_ref exp(r/tau) / Z, tau = beta / gt_reward_scale"


@dataclass(frozen=True)
class RPOBackwardKL(RewardAwareLoss):
    """RPO with the backward KL (arXiv 2406.11704, 2502.00203): soft-label PRA, ``KL(sigmoid(g) || sigmoid(z))``."""

    name: ClassVar[str] = "rpo_bwd_kl"
    traits = _traits(
        SCALED_BOLTZMANN, "KL(sigmoid(g) || sigmoid(z))", "sigmoid(z) - sigmoid(g)", "2406.11704", ("rewards",)
    )

    def distance(self, z: Tensor, g: Tensor) -> Tensor:
        """``[N]``."""
        return bernoulli_kl(g, z)


@dataclass(frozen=True)
class RPOForwardKL(RewardAwareLoss):
    """RPO with the forward KL (arXiv 2406.11704, 2502.00203): ``KL(sigmoid(z) || sigmoid(g))``."""

    name: ClassVar[str] = "rpo_fwd_kl"
    traits = _traits(
        SCALED_BOLTZMANN,
        "KL(sigmoid(z) || sigmoid(g))",
        "sigmoid(z) sigmoid(-z) (z - g)",
        "2406.11704",
        ("rewards",),
    )

    def distance(self, z: Tensor, g: Tensor) -> Tensor:
        """``[N]``."""
        return bernoulli_kl(z, g)


@dataclass(frozen=True)
class RDPO(DPOFamily):
    """Length-regularised DPO (arXiv 2403.19159): DPO for the reward ``r - alpha * length``.

    ``softplus(-z)``, ``z = beta (phi(h_w) - phi(h_l)) + alpha (T_w - T_l)``: a longer chosen response has to earn less of a margin.

    Args:
        alpha: price of a token; 0 or above, 0.005 to 0.01 for dialogue and 0.2 to 0.5 for summaries.
    """

    alpha: float = 0.01

    name: ClassVar[str] = "r_dpo"
    traits = _traits(
        "pi_ref exp((r - alpha T) / beta) / Z, T the length",
        "softplus(-z), z = beta (h_w - h_l) + alpha (T_w - T_l)",
        "-sigmoid(-z)",
        "2403.19159",
        ("lengths",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("alpha", self.alpha, 0.0)

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        z = self.z(chosen, rejected)
        longer = (chosen.lengths - rejected.lengths).to(z.dtype)  # a float times an integer tensor would be float32
        return softplus(-(z + self.alpha * longer))
