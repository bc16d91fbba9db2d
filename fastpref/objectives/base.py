"""The objective contract: stage 2, the only place where a loss formula exists.

An objective sees sequence (or token) log-probabilities and returns one loss per item; it never sees a logit. All that it can say to
the vocabulary work is ``d loss / d logp`` of every token, which autograd derives from the one definition in :meth:`Objective.losses`.

This package imports no backend. A new objective is a frozen dataclass whose fields are its hyper-parameters, with ``name``,
``traits`` and its losses, registered by :func:`fastpref.objectives.register`. Which base class:

=========================  ================================  ==============================================================
:class:`PairwiseObjective`  ``pair_losses(chosen, rejected)``  N pairs, each by itself: two batches of N sequences, elementwise
:class:`SequenceObjective`  ``losses(batch)``                  K sequences, each by itself, elementwise
:class:`GroupObjective`     ``group_losses(batch, groups)``    the sequences of a prompt together
:class:`TokenObjective`     ``token_losses(batch)``            T tokens; sequences are coupled by their lengths at most
:class:`Objective`          ``losses(batch)``                  anything else; declares ``coupling="batch"``
=========================  ================================  ==============================================================

Elementwise definitions are written in :mod:`fastpref.objectives.functions` and plain arithmetic, so that device code can be derived from
them (:mod:`fastpref.objectives.device`): hyper-parameters enter by arithmetic, never by a Python branch on a tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .batch import DATA, SequenceBatch, TokenBatch

Scenario = Literal["BDA", "RA", "RDA", "PRA", "NLL"]
Coupling = Literal["sequence", "pair", "group", "batch"]

BOLTZMANN = "pi_ref exp(r/tau) / Z, tau = beta"
"""The posterior target of the framework (prior-free: a uniform reference)."""


@dataclass(frozen=True)
class Traits:
    """What an objective declares of itself; the planner, the docs and the tests read it.

    Attributes:
        scenario: the UDRRA scenario (arXiv 2502.03095); NLL is none of them: plain maximum likelihood.
        target: the distribution that the population loss converges to.
        formula: the loss of one item, as text.
        derivative: its derivative with respect to the sequence (or token) log-probs, as text.
        coupling: the smallest set of sequences that the loss of an item depends on.
        reference: whether a reference is required, optional (without one the loss is prior-free) or refused.
        paper: arXiv id, or where there is none the source.
        margin_only: ``d loss / d s`` of a pair is ``(+a, -a)``, and depends on the margin alone.
        token_reduction: whether sequence log-probs enter as token sums or token means.
        level: whether sequence or token log-probs enter.
        data: names of the tensors that it needs beside the log-probs, see :data:`fastpref.objectives.batch.DATA`;
            ``"lengths"`` among them: it reads lengths although it takes sums.
        optional_data: names of tensors that it takes if given.
        vocabulary: what it needs of the full distribution: ``"log_sum_sq_probs"``, ``"forward_kl"`` (of the reference from the policy) or
            ``"reverse_kl"``.
        stateful: it carries state from call to call.
        surrogate: the value is not what is differentiated (a policy gradient with a detached weight).
    """

    scenario: Scenario
    target: str
    formula: str
    derivative: str
    coupling: Coupling
    reference: Literal["required", "optional", "none"]
    paper: str
    margin_only: bool = False
    token_reduction: Literal["sum", "mean"] = "sum"
    level: Literal["sequence", "token"] = "sequence"
    data: tuple[str, ...] = ()
    optional_data: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    stateful: bool = False
    surrogate: bool = False

    def __post_init__(self) -> None:
        for name in (*self.data, *self.optional_data):
            if name not in DATA and name != "lengths":
                raise ValueError(f"traits: unknown data {name!r} (known: {', '.join(DATA)})")

    @property
    def prior(self) -> Literal["posterior", "prior-free", "either"]:
        """The version in the framework: with the reference as prior, without one, or either as the call gives one or not."""
        versions: dict[str, Literal["posterior", "prior-free", "either"]]
        versions = {"required": "posterior", "none": "prior-free", "optional": "either"}
        return versions[self.reference]

    @property
    def needs_lengths(self) -> bool:
        """Whether the loss depends on the completion lengths."""
        return self.token_reduction == "mean" or self.level == "token" or "lengths" in self.data


class Objective(ABC):
    """A loss of the family. Subclasses are frozen dataclasses; their fields are the hyper-parameters."""

    name: ClassVar[str]
    item: ClassVar[Literal["pair", "sequence", "group", "call"]] = "call"
    """What an item is: losses mix where it is the same."""
    traits: Traits
    """Declared on the class; an instance whose hyper-parameters change a trait replaces it with :meth:`_declare`."""

    @abstractmethod
    def losses(self, batch: SequenceBatch) -> Tensor:
        """One loss per item (a pair, a sequence, a group); the loss of the call is the mean over the items of the whole call."""

    @abstractmethod
    def items(self, batch: SequenceBatch) -> int:
        """How many items the batch has."""

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Detached scalars, under TRL's names where it has them."""
        return {"logps/mean": batch.policy.detach().mean()}

    def check(self, batch: SequenceBatch) -> None:
        """Raise ``ValueError`` where the batch is not one that this objective can take. Values may be looked at only on the CPU."""
        if batch.policy.shape[0] == 0:
            raise ValueError(f"{self.name}: expected at least one sequence, found none")

    @property
    def weights_tokens(self) -> bool:
        """Whether :meth:`token_weights` gives weights."""
        return False

    def token_weights(self, lengths: Tensor, position: Tensor, sequence: Tensor) -> Tensor | None:
        """``[T]`` weights of the tokens in the sequence sums, of policy and reference alike, or ``None`` for 1.

        Args:
            lengths: ``[K]``.
            position: ``[T]`` number of each active row in its sequence, from 0.
            sequence: ``[T]`` the sequence of each row.
        """
        return None

    def initial_state(self) -> dict[str, Tensor]:
        """The state before the first call; empty where there is none. All are tensors on the CPU, fit for a checkpoint."""
        return {}

    def next_state(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The state after seeing this call's batch (``batch.state`` is the one before); the losses of the call use it."""
        return dict(batch.state)

    def _declare(self, **traits: Any) -> None:
        """Replace traits on this instance, from ``__post_init__``."""
        object.__setattr__(self, "traits", replace(self.traits, **traits))


def pair_metrics(beta: float, batch: SequenceBatch, log_ratio: Tensor | None = None) -> dict[str, Tensor]:
    """TRL's metrics of pairs: implicit rewards ``beta * h``, their margins and accuracy, and the policy's sequence log-probs, as batch means.

    One more: ``logps/accuracies``, how often the policy by itself finds the chosen sequence likelier than the rejected one.
    """
    with torch.no_grad():
        h = batch.log_ratio() if log_ratio is None else log_ratio
        return reward_metrics(beta * h, batch.policy)


def reward_metrics(rewards: Tensor, policy: Tensor, margins: Tensor | None = None) -> dict[str, Tensor]:
    """:func:`pair_metrics` from implicit rewards and sequence log-probs ``[K]``, and the margins ``[K / 2]`` where they are there already."""
    chosen, rejected = rewards.chunk(2)
    logps_chosen, logps_rejected = policy.chunk(2)
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype).mean(),
        "rewards/margins": (chosen - rejected if margins is None else margins).mean(),
        "logps/chosen": logps_chosen.mean(),
        "logps/rejected": logps_rejected.mean(),
        "logps/accuracies": (logps_chosen > logps_rejected).to(chosen.dtype).mean(),
    }


class PairwiseObjective(Objective):
    """An objective on (chosen, rejected) pairs; items are the N pairs."""

    item = "pair"

    @abstractmethod
    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``, elementwise in the pairs."""

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[N]``."""
        return self.pair_losses(*batch.halves())

    def items(self, batch: SequenceBatch) -> int:
        """N."""
        return batch.policy.shape[0] // 2

    def check(self, batch: SequenceBatch) -> None:
        """K must be even."""
        sequences = batch.policy.shape[0]
        if sequences == 0 or sequences % 2:
            raise ValueError(
                f"{self.name}: expected an even number of sequences (N chosen, then N rejected), found {sequences}"
            )

    @property
    def reward_scale(self) -> float:
        """The factor of ``h`` in the implicit rewards that the metrics show."""
        return float(getattr(self, "beta", 1.0))

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """TRL's metrics of pairs: implicit rewards, their margins and accuracy, log-probs."""
        return pair_metrics(self.reward_scale, batch)


class SequenceObjective(Objective):
    """An objective on single sequences; items are the K sequences, ``losses`` is elementwise."""

    item = "sequence"

    def items(self, batch: SequenceBatch) -> int:
        """K."""
        return batch.policy.shape[0]

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Means of the log-probs, of the log-ratio and of the given rewards."""
        with torch.no_grad():
            found = {"logps/mean": batch.policy.mean(), "log_ratio/mean": batch.log_ratio().mean()}
            if "rewards" in batch.data:
                found["rewards/mean"] = batch.data["rewards"].to(batch.policy.dtype).mean()
            return found


@dataclass(frozen=True)
class Groups:
    """The sequences of each of G prompts, as a padded matrix: the shape in which K-wise losses are elementwise and row sums.

    Attributes:
        index: ``[G, M]`` sequence numbers (padding: 0), in the order of the call.
        valid: ``[G, M]`` bool.
        sizes: ``[G]``.
    """

    index: Tensor
    valid: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Groups:
        """From ``groups [K]``: any integers, in any order."""
        _, inverse, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
        order = torch.argsort(inverse, stable=True)
        rank = torch.arange(ids.shape[0], device=ids.device) - (sizes.cumsum(0) - sizes)[inverse[order]]
        shape = (sizes.shape[0], int(sizes.max()))
        index = torch.zeros(shape, dtype=torch.int64, device=ids.device)
        valid = torch.zeros(shape, dtype=torch.bool, device=ids.device)
        index[inverse[order], rank] = order
        valid[inverse[order], rank] = True
        return cls(index, valid, sizes)

    def take(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """``[K]`` to ``[G, M]``."""
        return torch.where(self.valid, values[self.index], torch.full_like(values[self.index], padding))


class GroupObjective(Objective):
    """An objective on the sequences of one prompt together; items are the G groups of ``groups [K]``."""

    item = "group"

    @abstractmethod
    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[G]``, groups in ascending order of their ids."""
        return self.group_losses(batch, Groups.of(batch.data["groups"]))

    def items(self, batch: SequenceBatch) -> int:
        """G."""
        return int(torch.unique(batch.data["groups"]).shape[0])

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Means of the log-probs and of the log-ratio."""
        with torch.no_grad():
            return {"logps/mean": batch.policy.mean(), "log_ratio/mean": batch.log_ratio().mean()}


class TokenObjective(Objective):
    """An objective on token log-probs; items are the K sequences.

    The loss is ``sum of token losses / divisor``, with the divisor of :meth:`divisors` per sequence.
    """

    item = "sequence"

    @abstractmethod
    def token_losses(self, batch: SequenceBatch, tokens: TokenBatch) -> Tensor:
        """``[T]``; what ignored rows hold does not matter."""

    @abstractmethod
    def divisors(self, batch: SequenceBatch) -> Tensor:
        """``[K]``: what the sum of a sequence's token losses is divided by, before the mean over the K sequences of the call."""

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        tokens = self.tokens_of(batch)
        return tokens.sums(self.token_losses(batch, tokens)) / self.divisors(batch)

    def tokens_of(self, batch: SequenceBatch) -> TokenBatch:
        """The rows, or an error that says what is missing."""
        if batch.tokens is None:
            raise ValueError(
                f"{self.name}: works on token log-probs; expected policy [T] with cu_seqlens, found sequence sums [K]"
            )
        return batch.tokens

    def items(self, batch: SequenceBatch) -> int:
        """K."""
        return batch.policy.shape[0]
