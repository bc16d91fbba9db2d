"""Plain maximum likelihood: over all sequences, and over the chosen ones of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import SequenceObjective, Traits
from .batch import SequenceBatch
from .dpo_family import DPOFamily
from .policy_gradient import token_share


@dataclass(frozen=True)
class NLL(SequenceObjective):
    """Negative log-likelihood, mean over all completion tokens: ``-sum lp / N``.

    ``N`` counts the tokens of the call, or is ``num_items_in_batch`` where that scalar is given (the tokens of the whole accumulated batch; losses of the
    calls then add up).
    """

    name: ClassVar[str] = "nll"
    traits = Traits(
        scenario="NLL",
        target="the data's distribution",
        formula="-lp K / N",
        derivative="-K / N",
        coupling="sequence",
        reference="none",
        paper="maximum likelihood",
        token_reduction="mean",
        optional_data=("num_items_in_batch",),
    )

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``: each sequence's share, so that their mean is the mean over tokens."""
        total = batch.data.get("num_items_in_batch")
        if total is None:
            return -batch.policy / batch.call_number("mean_length")
        return -batch.policy / token_share(batch, total.clamp(min=1))


@dataclass(frozen=True)
class SFT(DPOFamily):
    """TRL's ``sft``: negative log-likelihood of the chosen sequences, mean over all their tokens in the call: ``-sum lw / sum Tw``.

    A member of the DPO family so that it mixes with the others (IRPO, MPO, RPO). ``beta``, ``f_divergence_type`` and its coefficient do not enter;
    ``use_weighting`` acts as in every member; ``ld_alpha`` does not: all chosen tokens count 1, as in TRL.
    """

    name: ClassVar[str] = "sft"
    traits = Traits(
        scenario="NLL",
        target="the chosen responses' distribution",
        formula="-lw N / sum Tw",
        derivative="a_w = -N / sum Tw, a_l = 0",
        coupling="pair",
        reference="none",
        paper="maximum likelihood",
        token_reduction="mean",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return -chosen.likelihood() / chosen.call_number("mean_chosen_length")
