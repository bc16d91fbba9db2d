"""The objective contract: stage 2, the only place where a loss formula exists.

An objective sees K sequence log-probabilities and returns one loss per item; it never sees a logit. All that it can say to the
vocabulary work is ``c_k = d loss / d s_k``, which autograd derives from the one definition in :meth:`Objective.losses`.

This package imports no backend. A new objective is a frozen dataclass whose fields are its hyper-parameters, with ``name``,
``traits`` and ``losses``, registered by :func:`fastpref.objectives.register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

Scenario = Literal["BDA", "RA", "RDA", "PRA"]
Coupling = Literal["sequence", "pair", "group", "batch"]


@dataclass(frozen=True)
class Traits:
    """What an objective declares of itself; the planner, the docs and the tests read it.

    Attributes:
        scenario: the UDRRA scenario (arXiv 2502.03095).
        target: the distribution that the population loss converges to.
        coupling: the smallest set of sequences that the loss of an item depends on.
        reference: whether a reference is required, optional (without one the loss is prior-free) or refused.
        margin_only: ``d loss / d s`` of a pair is ``(+a, -a)``.
        token_reduction: whether sequence log-probs enter as token sums or token means.
        data: names of the per-sequence tensors that it needs beside the log-probs.
        paper: arXiv id.
    """

    scenario: Scenario
    target: str
    coupling: Coupling
    reference: Literal["required", "optional", "none"]
    margin_only: bool
    token_reduction: Literal["sum", "mean"]
    paper: str
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class SequenceBatch:
    """The input of an objective: K sequences, for pairwise objectives N chosen, then the N rejected of the same pairs.

    Attributes:
        policy: ``[K]`` token sums of the policy's log-probs.
        reference: ``[K]`` the same under the reference, or ``None``.
        lengths: ``[K]`` completion tokens of each sequence, at least 1.
        data: further ``[K]`` tensors by name.
    """

    policy: Tensor
    reference: Tensor | None
    lengths: Tensor
    data: Mapping[str, Tensor] = field(default_factory=dict)

    def log_ratio(self) -> Tensor:
        """``h = policy - reference``; prior-free (no reference): ``h = policy``."""
        return self.policy if self.reference is None else self.policy - self.reference

    def select(self, sequences: Tensor, policy: Tensor) -> SequenceBatch:
        """The sub-batch of these sequences, with its own ``policy`` (the leaf that is differentiated)."""
        return replace(
            self,
            policy=policy,
            reference=None if self.reference is None else self.reference[sequences],
            lengths=self.lengths[sequences],
            data={name: value[sequences] for name, value in self.data.items()},
        )


class Objective(ABC):
    """A loss of the family. Subclasses are frozen dataclasses; their fields are the hyper-parameters."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    @abstractmethod
    def losses(self, batch: SequenceBatch) -> Tensor:
        """One loss per item (a pair, a sequence), differentiable with respect to ``batch.policy``."""

    @abstractmethod
    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Detached scalars under TRL's names."""

    @abstractmethod
    def check(self, batch: SequenceBatch) -> None:
        """Raise ``ValueError`` where the batch is not one that this objective can take."""


class PairwiseObjective(Objective):
    """An objective on (chosen, rejected) pairs with implicit rewards ``beta * h``."""

    beta: float

    def check(self, batch: SequenceBatch) -> None:
        """K must be even."""
        sequences = batch.policy.shape[0]
        if sequences == 0 or sequences % 2:
            raise ValueError(
                f"{self.name}: expected an even number of sequences (N chosen, then N rejected), found {sequences}"
            )

    def pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """``(chosen [N], rejected [N])`` of a ``[2N]`` tensor."""
        chosen, rejected = values.chunk(2)
        return chosen, rejected

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """TRL's metrics: implicit rewards, their margins and accuracy, and the policy's sequence log-probs, as batch means.

        One more: ``logps/accuracies``, how often the policy by itself finds the chosen sequence likelier than the rejected one.
        """
        with torch.no_grad():
            chosen, rejected = self.pairs(self.beta * batch.log_ratio())
            logps_chosen, logps_rejected = self.pairs(batch.policy)
            return {
                "rewards/chosen": chosen.mean(),
                "rewards/rejected": rejected.mean(),
                "rewards/accuracies": (chosen > rejected).to(chosen.dtype).mean(),
                "rewards/margins": (chosen - rejected).mean(),
                "logps/chosen": logps_chosen.mean(),
                "logps/rejected": logps_rejected.mean(),
                "logps/accuracies": (logps_chosen > logps_rejected).to(chosen.dtype).mean(),
            }
