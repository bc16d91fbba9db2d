"""Pairwise losses in which the pairs of a call depend on each other: by a sort, or by statistics of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import require_at_least, require_between, require_positive
from ..base import PairwiseObjective, Traits
from ..batch import SequenceBatch
from ..functions import smoothed_softplus, softplus
from .log_ratio import LogRatioLoss

STOCHASTIC_DOMINANCE = "no target per response: the sorted margins of the policy dominate"


@dataclass(frozen=True)
class AOT(LogRatioLoss):
    """Alignment by optimal transport, TRL's ``aot`` (arXiv 2406.05882; ``beta`` 0.01 in the paper): margins compared rank by rank.

    ``delta_i = sort(lw - ll)_i - sort(rw - rl)_i``, both ascending; cDPO of ``beta delta_i``. The losses ``[N]`` are in the order of the ranks. Pairs
    are sorted within the call. Cannot be combined with ``use_weighting``, whose weights belong to pairs and not to ranks.

    Args:
        label_smoothing: probability that a label is flipped, in [0, 0.5].
    """

    label_smoothing: float = 0.0

    name: ClassVar[str] = "aot"
    traits = Traits(
        scenario="PRA",
        target=STOCHASTIC_DOMINANCE,
        formula="cdpo(beta delta_i), delta = sort(lw - ll) - sort(rw - rl)",
        derivative="(+beta phi, -beta phi), phi = sigmoid(beta delta_i) - (1 - eps), to the pair at rank i",
        coupling="batch",
        reference="required",
        paper="2406.05882",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("label_smoothing", self.label_smoothing, 0.0, 0.5)
        if self.use_weighting:
            raise ValueError(
                f"use_weighting: expected False, found True: {self.name} sorts pairs, so that a loss belongs to no one pair"
            )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]`` by rank."""
        return smoothed_softplus(self.beta * self.distances(chosen, rejected), self.label_smoothing)

    def distances(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``delta [N]`` by rank."""
        margins = chosen.policy - rejected.policy
        if chosen.reference is None or rejected.reference is None:
            raise ValueError(f"{self.name}: needs a reference, found None")
        return torch.sort(margins).values - torch.sort(chosen.reference - rejected.reference).values


@dataclass(frozen=True)
class AOTUnpaired(AOT):
    """Alignment by optimal transport between all chosen and all rejected responses, TRL's ``aot_unpaired`` (arXiv 2406.05882).

    As ``aot`` with ``delta_i = sort(h_w)_i - sort(h_l)_i``: which rejected response belongs to which chosen one does not matter.
    """

    name: ClassVar[str] = "aot_unpaired"
    traits = Traits(
        scenario="PRA",
        target=STOCHASTIC_DOMINANCE,
        formula="cdpo(beta delta_i), delta = sort(h_w) - sort(h_l)",
        derivative="+beta phi to the chosen, -beta phi to the rejected response at rank i, phi = sigmoid(beta delta_i) - (1 - eps)",
        coupling="batch",
        reference="required",
        paper="2406.05882",
    )

    def distances(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``delta [N]`` by rank."""
        return torch.sort(chosen.log_ratio()).values - torch.sort(rejected.log_ratio()).values


MOMENTUM = 0.9
"""Of beta-DPO's running mean and standard deviation."""

LEAST_BETA = 1e-3
"""beta-DPO's dynamic temperature does not fall below this."""


@dataclass(frozen=True)
class BetaDPO(PairwiseObjective):
    """beta-DPO (arXiv 2407.08639): DPO with a temperature that follows the batch, on the pairs nearest to the running mean margin.

    ``softplus(-beta' Delta)`` on kept pairs, 0 elsewhere, ``beta' = sg[max(1e-3, beta (1 + a (mean of kept Delta - M0)))]``, ``Delta = h_w - h_l``.

    ``floor((1 - mode_weight) N)`` pairs, at least one, are kept: drawn without replacement with weights ``exp(-((Delta - M0) / S)^2 / 2)``. ``M0`` and
    ``S`` are running means (momentum 0.9) of the batches' mean and standard deviation of ``Delta``, updated before use; the first call sets them
    to its own.

    State: ``mean`` (M0), ``deviation`` (S), ``draws``, the number of calls so far. A draw depends on ``seed``, ``draws`` and the margins alone, so that a run
    that resumes from its state draws the same pairs; the random numbers come from the CPU and wait for no device.

    Args:
        beta: temperature of a batch whose mean margin is M0; above 0.
        a: how strongly the temperature follows the batch; 0 or above.
        mode_weight: share of pairs left out, in [0, 1).
        seed: of the draws; 0 or above.
    """

    beta: float = 0.1
    a: float = 0.6
    mode_weight: float = 0.2
    seed: int = 0

    name: ClassVar[str] = "beta_dpo"
    traits = Traits(
        scenario="PRA",
        target="pi_ref exp(r/tau) / Z, tau = beta'",
        formula="softplus(-beta' Delta) on kept pairs, 0 elsewhere, beta' = sg[max(1e-3, beta (1 + a (mean kept Delta - M0)))]",
        derivative="a_w = -beta' sigmoid(-beta' Delta) = -a_l on kept pairs, 0 elsewhere",
        coupling="batch",
        reference="required",
        paper="2407.08639",
        stateful=True,
        surrogate=True,
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_at_least("a", self.a, 0.0)
        require_between("mode_weight", self.mode_weight, 0.0, 1.0, ends="[)")
        require_at_least("seed", self.seed, 0)
        if not isinstance(self.seed, int):
            raise TypeError(f"seed: expected an integer, found {self.seed!r} ({type(self.seed).__name__})")

    def initial_state(self) -> dict[str, Tensor]:
        """Nothing seen."""
        return {
            "mean": torch.zeros((), dtype=torch.float64),
            "deviation": torch.zeros((), dtype=torch.float64),
            "draws": torch.zeros((), dtype=torch.int64),
        }

    def next_state(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """With this call's margins and one more draw."""
        margins = _margins(*batch.halves()).detach()
        draws = batch.state["draws"]
        momentum = MOMENTUM if int(draws) > 0 else 0.0
        found = {"mean": margins.mean(), "deviation": margins.std(correction=min(1, margins.shape[0] - 1))}
        running = {key: momentum * batch.state[key].to(new) + (1.0 - momentum) * new for key, new in found.items()}
        return {**running, "draws": draws + 1}

    def kept(self, margins: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """``[N]`` bool: the pairs of this call's draw, from its margins ``[N]``."""
        pairs = margins.shape[0]
        # A zero deviation belongs to equal margins, all of them at the mean.
        deviation = state["deviation"].to(margins).clamp(min=1e-12)
        log_weights = -0.5 * ((margins - state["mean"].to(margins)) / deviation) ** 2
        # The largest of log-weights plus Gumbel noise are a draw without replacement. The generator takes 32 bits of its seed, hence the
        # odd multiplier, which spreads the seeds over them.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + int(state["draws"])) % 2**32)
        uniform = torch.rand(pairs, generator=generator, dtype=torch.float64).clamp(min=1e-300)
        keys = log_weights - torch.log(-torch.log(uniform)).to(margins)
        count = max(1, int((1.0 - self.mode_weight) * pairs + 1e-9))
        return torch.zeros(pairs, dtype=torch.bool, device=margins.device).scatter(0, keys.topk(count).indices, True)

    def temperature(self, margins: Tensor, kept: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """``beta'``."""
        mean = torch.where(kept, margins, torch.zeros_like(margins)).sum() / kept.sum()
        return (self.beta * (1.0 + self.a * (mean - state["mean"].to(margins)))).clamp(min=LEAST_BETA)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``, 0 where a pair is not kept."""
        margins = _margins(chosen, rejected)
        kept = self.kept(margins.detach(), chosen.state)
        losses = softplus(-self.temperature(margins.detach(), kept, chosen.state) * margins)
        return torch.where(kept, losses, torch.zeros_like(losses))

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Further ``beta``, the temperature of this call."""
        margins = _margins(*batch.halves()).detach()
        used = self.temperature(margins, self.kept(margins, batch.state), batch.state)
        return {**super().metrics(batch), "beta": used}


def _margins(chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
    return chosen.log_ratio() - rejected.log_ratio()
