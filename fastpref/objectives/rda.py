"""RDA, reward-difference approximation: margins of implicit rewards regressed onto margins of rewards, on pairs or on a group's responses.

IPO belongs here with the win rate as its reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_positive
from .base import BOLTZMANN, GroupObjective, Groups, PairwiseObjective, Traits
from .batch import SequenceBatch
from .dpo_family import DPOFamily
from .pra.margin import SCALED_BOLTZMANN, RewardAwareLoss


@dataclass(frozen=True)
class IPO(DPOFamily):
    """Identity preference optimisation on token means, TRL's ``ipo`` (arXiv 2310.12036).

    ``(phi(h_w) / T_w - phi(h_l) / T_l - 1 / (2 beta))^2``; the paper's own formula, on sums, is ``ipo_sum``.
    """

    name: ClassVar[str] = "ipo"
    traits = Traits(
        scenario="RDA",
        target="per pair h_w/T_w - h_l/T_l = (2p - 1) / (2 beta)",
        formula="e^2, e = h_w/T_w - h_l/T_l - 1/(2 beta)",
        derivative="a_w = 2 e / T_w, a_l = -2 e / T_l",
        coupling="pair",
        reference="optional",
        token_reduction="mean",
        paper="2310.12036",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        margin = self.score(chosen) / chosen.lengths - self.score(rejected) / rejected.lengths
        return (margin - 1.0 / (2.0 * self.beta)) ** 2


@dataclass(frozen=True)
class IPOSum(DPOFamily):
    """Identity preference optimisation on token sums (arXiv 2310.12036): ``(phi(h_w) - phi(h_l) - 1 / (2 beta))^2``."""

    name: ClassVar[str] = "ipo_sum"
    traits = Traits(
        scenario="RDA",
        target="pi_ref exp(P(y > mu) / beta) / Z, P the win rate against the data's distribution mu",
        formula="(Delta - 1/(2 beta))^2, Delta = h_w - h_l",
        derivative="a_w = 2 (Delta - 1/(2 beta)) = -a_l",
        coupling="pair",
        reference="optional",
        margin_only=True,
        paper="2310.12036",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return (self.score(chosen) - self.score(rejected) - 1.0 / (2.0 * self.beta)) ** 2


@dataclass(frozen=True)
class RPOSquared(RewardAwareLoss):
    """RPO with the squared distance (arXiv 2406.11704, 2502.00203; distilled DPO, 2405.19316): RDA on pairs, ``(z - g)^2``."""

    name: ClassVar[str] = "rpo_sq"
    traits = Traits(
        scenario="RDA",
        target=SCALED_BOLTZMANN,
        formula="(z - g)^2, g = gt_reward_scale (r_w - r_l)",
        derivative="phi = 2 (z - g)",
        coupling="pair",
        reference="optional",
        margin_only=True,
        paper="2406.11704",
        data=("rewards",),
    )

    def distance(self, z: Tensor, g: Tensor) -> Tensor:
        """``[N]``."""
        return (z - g) ** 2


@dataclass(frozen=True)
class REBEL(PairwiseObjective):
    """REBEL (arXiv 2404.16767): ``(h_w - h_l - eta (r_w - r_l))^2``, the reference being the policy of the last round.

    Data: ``rewards [K]``.

    Args:
        eta: step size of the round, an inverse temperature; above 0.
    """

    eta: float = 1.0

    name: ClassVar[str] = "rebel"
    traits = Traits(
        scenario="RDA",
        target="each round pi_ref exp(r/tau) / Z, tau = 1/eta",
        formula="(Delta - eta (r_w - r_l))^2, Delta = h_w - h_l",
        derivative="a_w = 2 (Delta - eta (r_w - r_l)) = -a_l",
        coupling="pair",
        reference="required",
        margin_only=True,
        paper="2404.16767",
        data=("rewards",),
    )

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)

    @property
    def reward_scale(self) -> float:
        """``1 / eta``: the implicit rewards are in the unit of the given ones."""
        return 1.0 / self.eta

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        margin = chosen.log_ratio() - rejected.log_ratio()
        given = chosen.data["rewards"].to(margin.dtype) - rejected.data["rewards"].to(margin.dtype)
        return (margin - self.eta * given) ** 2


@dataclass(frozen=True)
class RDAGroup(GroupObjective):
    """Group RDA (arXiv 2502.03095): ``2 / (M - 1) sum_i (u_i - mean u)^2`` over the M samples of a prompt, with ``u = r - beta h``.

    Twice the unbiased variance of ``u``, which is the mean over the ordered pairs of the group of ``((r_i - r_j) - beta (h_i - h_j))^2``; no ``Z`` is needed.
    Samples may come from any distribution. Needs ``rewards [K]`` and ``groups [K]``; a group of one has no pair: its loss is 0.

    Args:
        beta: temperature ``tau``, above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "rda_group"
    traits = Traits(
        scenario="RDA",
        target=BOLTZMANN,
        formula="2 / (M - 1) sum_i (u_i - mean u)^2, u = r - beta h",
        derivative="-4 beta (u_i - mean u) / (M - 1)",
        coupling="group",
        reference="optional",
        paper="2502.03095",
        data=("rewards", "groups"),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        u = groups.take(batch.data["rewards"] - self.beta * batch.log_ratio())
        mean = u.sum(dim=1) / groups.sizes
        centred = torch.where(groups.valid, u - mean[:, None], torch.zeros_like(u))
        return 2.0 * (centred * centred).sum(dim=1) / (groups.sizes - 1).clamp(min=1)
