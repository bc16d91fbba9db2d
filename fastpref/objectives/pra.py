"""PRA, preference-reward approximation: losses on labelled pairs. Target: ``KL(p* || p_theta)`` of the pair's preference is 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..errors import require_positive
from .base import PairwiseObjective, SequenceBatch, Traits


@dataclass(frozen=True)
class DPO(PairwiseObjective):
    """Direct preference optimisation, TRL's ``sigmoid``: ``-log sigmoid(beta * (h_chosen - h_rejected))`` (arXiv 2305.18290).

    ``h`` is the sequence log-ratio to the reference (posterior version, PRA-P), or the sequence log-probability where there is no
    reference (prior-free PRA, a uniform reference). Derivative: ``-+ beta * sigmoid(-beta * margin)``.

    Args:
        beta: temperature of the implicit reward; above 0.
    """

    name: ClassVar[str] = "sigmoid"
    traits: ClassVar[Traits] = Traits(
        scenario="PRA",
        target="pi_ref * exp(r / beta) / Z",
        coupling="pair",
        reference="optional",
        margin_only=True,
        token_reduction="sum",
        paper="2305.18290",
    )

    beta: float = 0.1

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[N]``, one loss per pair."""
        chosen, rejected = self.pairs(batch.log_ratio())
        return -F.logsigmoid(self.beta * (chosen - rejected))
