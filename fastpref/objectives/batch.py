"""What an objective sees: K sequences, and for token-level objectives their tokens.

Nothing here knows a loss or a logit. All numbers are float64 where the device has it (:func:`fastpref.packing.wide_dtype`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..packing import segment_sum


@dataclass(frozen=True)
class Datum:
    """A kind of data that objectives may ask for.

    Attributes:
        shapes: the shapes that it may have: K sequences, N = K / 2 pairs, T rows, M any number, "" a scalar.
        kind: real numbers, truth values or integers.
        meaning: what it is, in one line, with its convention.
        least: the smallest value that makes sense.
        most: the largest.
        learnt: it may require a gradient and gets it from the loss; all other data are detached.
    """

    shapes: tuple[str, ...]
    kind: Literal["float", "bool", "int"]
    meaning: str
    least: float | None = None
    most: float | None = None
    learnt: bool = False


DATA: dict[str, Datum] = {
    "desirable": Datum(("K",), "bool", "whether the response is a good one, where there are no pairs"),
    "groups": Datum(("K",), "int", "the prompt of each sequence: any integers, in any order"),
    "ranks": Datum(("K",), "int", "place of the response among those of its prompt: 0 is best, equal numbers are ties"),
    "levels": Datum(("K",), "int", "preference level of the response: 1 is best, equal numbers are not compared", 1),
    "rewards": Datum(("K",), "float", "given reward of the response, not divided by the temperature"),
    "quantiles": Datum(
        ("K",), "float", "share of the reference's samples with a reward not above this one, in [0, 1]", 0.0, 1.0
    ),
    "win_probs": Datum(
        ("K",), "float", "probability that the response is preferred to its opponent, in [0, 1]", 0.0, 1.0
    ),
    "desirable_probs": Datum(("K",), "float", "a classifier's P(desirable | prompt), in [0, 1]", 0.0, 1.0),
    "from_reference": Datum(("K",), "bool", "whether the reference sampled the response"),
    "log_z": Datum(("K",), "float", "log of the prompt's partition function at the loss's temperature, in nats"),
    "baseline": Datum(("K",), "float", "subtracted from the coefficient h - r / beta; must not depend on the sample"),
    "advantages": Datum(("K", "T"), "float", "how much better than expected the response, or the token, was"),
    "old_logps": Datum(("K", "T"), "float", "log-probs under the policy that sampled the responses"),
    "values": Datum(
        ("K", "T"),
        "float",
        "value of the prompt, or of the state before the token; may require a gradient",
        learnt=True,
    ),
    "old_values": Datum(("T",), "float", "the values when the responses were sampled"),
    "returns": Datum(("T",), "float", "what the values are regressed on: advantages plus old values"),
    "sft_logps": Datum(
        ("N",), "float", "sequence log-probs of the responses to stay likely; may require a gradient", learnt=True
    ),
    "mismatched_log_ratios": Datum(("M",), "float", "log-ratios of responses under prompts not theirs"),
    "num_items_in_batch": Datum(
        ("",), "float", "tokens of the whole accumulated batch; losses of its calls then add up", 1
    ),
}
"""Data that objectives may ask for, by name."""


@dataclass(frozen=True)
class TokenBatch:
    """The T rows of K sequences; ignored rows hold 0 everywhere and are not ``active``.

    Attributes:
        policy: ``[T]`` token log-probs of the policy.
        reference: ``[T]`` the same under the reference, or ``None``.
        active: ``[T]`` bool.
        sequence: ``[T]`` int64, the sequence of each row.
        cu_seqlens: ``[K+1]``.
    """

    policy: Tensor
    reference: Tensor | None
    active: Tensor
    sequence: Tensor
    cu_seqlens: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """``[T]`` to ``[K]``: sums over the active rows of each sequence."""
        return segment_sum(torch.where(self.active, values, torch.zeros_like(values)), self.cu_seqlens)

    def spread(self, values: Tensor) -> Tensor:
        """``[K]`` to ``[T]``: each row gets its sequence's value."""
        return values[self.sequence]


@dataclass(frozen=True)
class SequenceBatch:
    """The input of an objective: K sequences; for pairwise objectives N chosen, then the N rejected of the same pairs.

    A batch may be a part of a call (plan D1 runs a few sequences at a time). What a loss divides by then belongs to the call:
    :attr:`call` has the lengths and the data of all its sequences, and no log-probs.

    Attributes:
        policy: ``[K]`` token sums of the policy's log-probs, weighted where the call has token weights.
        reference: ``[K]`` the same under the reference, or ``None``.
        lengths: ``[K]`` completion tokens of each sequence, at least 1.
        counts: ``[K]`` the same, 0 where all rows of a sequence are ignored; ``None``: ``lengths``.
        data: further tensors by name, see :data:`DATA`.
        unweighted: ``[K]`` ``policy`` without token weights, where the call has them.
        kl: ``[K]`` differentiable token sums of the KL over the vocabulary, where the objective asked for it.
        aligned: ``[K]`` detached token means of ``logp - log sum_v p_v^2``, where the objective asked for ``log_sum_sq_probs``.
        tokens: the rows, where the call has them and the objective works on tokens or on data per token.
        state: the objective's state, already updated with this call's batch.
        numbers: what :meth:`call_number` is to return instead of the call's own (device code is derived with these as arguments).
        whole: the call that this batch is a part of; ``None``: it is all of it.
    """

    policy: Tensor
    reference: Tensor | None
    lengths: Tensor
    data: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Tensor | None = None
    unweighted: Tensor | None = None
    kl: Tensor | None = None
    aligned: Tensor | None = None
    tokens: TokenBatch | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    whole: SequenceBatch | None = None

    @property
    def call(self) -> SequenceBatch:
        """All sequences of the call; only ``lengths``, ``data`` and ``state`` may be read from it."""
        return self if self.whole is None else self.whole

    def log_ratio(self) -> Tensor:
        """``h = policy - reference``; prior-free (no reference): ``h = policy``."""
        return self.policy if self.reference is None else self.policy - self.reference

    def call_number(self, name: str) -> Tensor:
        """A number of the whole call, one of :data:`CALL_NUMBERS`, that the losses of all its items share; detached."""
        if name in self.numbers:
            return self.numbers[name]
        return CALL_NUMBERS[name](self.call).detach()

    def token_counts(self) -> Tensor:
        """``[K]`` completion tokens that count: 0 of a sequence whose rows are all ignored."""
        return self.lengths if self.counts is None else self.counts

    def token_total(self) -> Tensor:
        """How many tokens of the whole call count, at least 1: what token means divide by."""
        return self.call.token_counts().sum().clamp(min=1)

    def likelihood(self) -> Tensor:
        """``[K]`` plain log-likelihoods: token sums without token weights."""
        return self.policy if self.unweighted is None else self.unweighted

    def mean_logp(self) -> Tensor:
        """``policy / lengths``: the mean log-prob of a sequence's tokens."""
        return self.policy / self.lengths

    def halves(self) -> tuple[SequenceBatch, SequenceBatch]:
        """The N chosen and the N rejected sequences of N pairs."""
        pairs = self.policy.shape[0] // 2
        return self.slice(slice(None, pairs)), self.slice(slice(pairs, None))

    def slice(self, part: slice | Tensor) -> SequenceBatch:
        """Some of the sequences, without their tokens: ``[K]`` data follow, all other data stay whole.

        With sequence numbers, of pairs the chosen ones first, ``[N]`` data follow as well; both halves of a batch keep them all.
        """
        count = self.policy.shape[0]
        return replace(
            self,
            policy=self.policy[part],
            reference=None if self.reference is None else self.reference[part],
            lengths=self.lengths[part],
            data={name: _part_of(name, value, part, count) for name, value in self.data.items()},
            counts=None if self.counts is None else self.counts[part],
            unweighted=None if self.unweighted is None else self.unweighted[part],
            kl=None if self.kl is None else self.kl[part],
            aligned=None if self.aligned is None else self.aligned[part],
            tokens=None,
            whole=self.call,
        )


def _part_of(name: str, value: Tensor, part: slice | Tensor, count: int) -> Tensor:
    """What a part of ``count`` sequences keeps of the data of that name."""
    shapes = DATA[name].shapes if name in DATA else ("K",)
    if "K" in shapes and value.shape == (count,):
        return value[part]
    if "N" in shapes and isinstance(part, Tensor) and value.shape == (count // 2,):
        return value[part[: part.shape[0] // 2]]
    return value


def _mean_chosen_length(call: SequenceBatch) -> Tensor:
    pairs = call.lengths.shape[0] // 2
    return call.token_counts()[:pairs].sum().clamp(min=1).to(call.policy.dtype) / pairs


def _mean_length(call: SequenceBatch) -> Tensor:
    return call.token_total().to(call.policy.dtype) / call.lengths.shape[0]


def _mean_mismatched_log_ratio(call: SequenceBatch) -> Tensor:
    return call.data["mismatched_log_ratios"].to(call.policy.dtype).mean()


CALL_NUMBERS: dict[str, Callable[[SequenceBatch], Tensor]] = {
    "mean_chosen_length": _mean_chosen_length,
    "mean_length": _mean_length,
    "mean_mismatched_log_ratio": _mean_mismatched_log_ratio,
}
"""Numbers of a call that its losses share, none of which depends on a log-prob of the policy."""
