"""RDA, reward-difference approximation, over all pairs of a group at once: the log-variance loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_positive
from .base import BOLTZMANN, GroupObjective, Groups, Traits
from .batch import SequenceBatch


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
