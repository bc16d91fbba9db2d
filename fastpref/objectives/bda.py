"""BDA, Boltzmann distribution approximation: minimise ``KL(pi || target)`` from samples of the policy (or, weighted, of another)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import require_at_least, require_between, require_choice, require_positive
from .base import BOLTZMANN, SequenceObjective, Traits
from .batch import SequenceBatch
from .ratios import clipped, importance_ratio, kl_estimate, kl_target
from .sampled import old_sums, require_per_sequence


@dataclass(frozen=True)
class BDA(SequenceObjective):
    """Boltzmann distribution approximation (arXiv 2502.03095), REINFORCE for ``KL(pi || pi_ref exp(r / beta) / Z)`` on samples of the policy.

    Per sample the derivative is ``w (h - r / beta - b)`` and the value ``w (h - r / beta)``, whose expectation is the divergence minus ``log Z``. Times ``beta`` it is
    the policy gradient of the reward ``r - beta h``. Needs ``rewards [K]``; takes ``baseline [K]`` (``b``, any number that does not depend on the sample) and, for
    samples of another policy ``mu``, ``old_logps`` (sequence sums ``[K]``, or ``[T]``): ``w = sg[pi / mu]``, its logarithm clamped to +-20; without them ``w = 1``.
    Without a reference (prior-free) ``h`` is the log-probability, and the KL term is the entropy bonus of maximum-entropy RL.

    How the KL enters decides what is reached (``d = -h``):

    ===========  ==================================================  ==============================================================
    ``kl``       in the loss                                         target
    ===========  ==================================================  ==============================================================
    ``"k1"``     ``h`` as part of the detached coefficient           ``pi_ref exp(r / beta) / Z``
    ``"k2"``     ``d^2 / 2``, differentiated                         the same: its derivative is ``h``
    ``"k3"``     ``e^d - d - 1``, differentiated (GRPO)              ``beta pi_ref / (lambda - r)``, the forward-KL tilt: not Boltzmann
    ``"exact"``  sum over positions of the KL over the vocabulary    the same as ``k1`` for one-token responses
    ===========  ==================================================  ==============================================================

    ``"exact"`` has no sampling noise in the position it looks at, but leaves out how a token changes the KL of the positions after it: the prefixes
    are samples and not differentiated. ``"k3"`` and ``"exact"`` need a reference.

    Args:
        beta: temperature ``tau``, above 0.
        kl: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
        epsilon: with ``old_logps``: PPO's clip. The reward's part of the derivative (``k1``: all of it) is 0 where ``w`` is below ``1 - epsilon`` and the
            coefficient positive; in [0, 1]; ``None``: no clip.
        epsilon_high: 0 where ``w`` is above ``1 + epsilon_high`` and the coefficient negative; ``None``: ``epsilon``.
    """

    beta: float = 0.1
    kl: Literal["k1", "k2", "k3", "exact"] = "k1"
    epsilon: float | None = None
    epsilon_high: float | None = None

    name: ClassVar[str] = "bda"
    traits = Traits(
        scenario="BDA",
        target=BOLTZMANN,
        formula="w (h - r / beta)",
        derivative="w (h - r / beta - b)",
        coupling="sequence",
        reference="optional",
        paper="2502.03095",
        data=("rewards",),
        optional_data=("baseline", "old_logps"),
        surrogate=True,
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_choice("kl", self.kl, ("k1", "k2", "k3", "exact"))
        if self.epsilon is not None:
            require_between("epsilon", self.epsilon, 0.0, 1.0)
        if self.epsilon_high is not None:
            require_at_least("epsilon_high", self.epsilon_high, 0.0)
            if self.epsilon is None:
                raise ValueError("epsilon_high: the clip needs epsilon too, found None")
        if self.kl == "k2":
            self._declare(formula="w (h^2 / 2 - r / beta)")
        if self.kl == "k3":
            self._declare(
                target=kl_target("k3", False),
                formula="w (e^-h + h - 1 - r / beta)",
                derivative="w (1 - e^-h - r / beta - b)",
                reference="required",
            )
        if self.kl == "exact":
            self._declare(
                target=BOLTZMANN + " (one-token responses)",
                formula="w (KL - r / beta)",
                derivative="-w (r / beta + b), and w through the KL",
                reference="required",
                vocabulary=("reverse_kl",),
            )

    def check(self, batch: SequenceBatch) -> None:
        """One baseline per sequence."""
        super().check(batch)
        require_per_sequence(self.name, batch, "baseline")

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        weight, penalty = self._weight(batch), self._penalty(batch)
        gain = batch.data["rewards"].detach() / self.beta
        if penalty is None:
            gain = gain - batch.log_ratio().detach()
        # The baseline is in the derivative alone: the value stays an estimate of the divergence.
        advantage = gain if "baseline" not in batch.data else gain + batch.data["baseline"].detach()
        coefficient = -weight * advantage
        if self.epsilon is not None:
            low, high = clipped(weight, advantage, self.epsilon, self.epsilon_high)
            coefficient = torch.where(low | high, torch.zeros_like(coefficient), coefficient)
        losses = -weight * gain + coefficient * (batch.policy - batch.policy.detach())
        return losses if penalty is None else losses + weight * penalty

    def _weight(self, batch: SequenceBatch) -> Tensor:
        """``[K]``, detached."""
        old, logps = old_sums(batch), batch.policy.detach()
        return torch.ones_like(logps) if old is None else importance_ratio(logps - old.detach())

    def _penalty(self, batch: SequenceBatch) -> Tensor | None:
        """The differentiable KL term ``[K]``; ``None`` for ``k1``, where it is part of the reward."""
        if self.kl == "k1":
            return None
        if self.kl == "exact":
            if batch.kl is None:
                raise ValueError(f"{self.name}: kl 'exact' needs the KL over the vocabulary, found none")
            return batch.kl
        return kl_estimate(self.kl, -batch.log_ratio())

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Also ``kl``: the mean of the estimate."""
        found = super().metrics(batch)
        with torch.no_grad():
            penalty = self._penalty(batch)
            found["kl"] = (batch.log_ratio() if penalty is None else penalty).mean()
            return found
