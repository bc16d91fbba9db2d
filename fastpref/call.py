"""What a call gave besides log-probs, and how log-probs and it become the batch that an objective sees.

Stage 2 sees either all of a call (plan D0) or a few of its sequences at a time (plan D1). Both go through :meth:`Call.batch`, so that the
same numbers in the same order reach the same formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._compile import computed_once
from .objectives.base import Objective
from .objectives.batch import DATA, SequenceBatch, TokenBatch
from .packing import cu_seqlens_from_lengths, segment_sum, wide_dtype


@dataclass(frozen=True)
class Call:
    """The rows of K sequences and the data that came with them.

    Attributes:
        objective: the objective.
        cu_seqlens: ``[K+1]``.
        active: ``[T]`` bool, rows that are not ignored.
        token_weights: ``[T]`` weights of the tokens in the sequence sums, or ``None`` for 1.
        data: what the objective asked for, checked by :func:`fastpref.arguments.checked_data`.
        state: the objective's state before the call.
        whole: batch of the call that this one is a part of, without log-probs; ``None``: it is all of it.
    """

    objective: Objective
    cu_seqlens: Tensor
    active: Tensor
    token_weights: Tensor | None
    data: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    whole: SequenceBatch | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        cu_seqlens: Tensor,
        active: Tensor,
        token_weights: Tensor | None,
        data: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> Call:
        """A whole call, with the token weights of the objective multiplied into those of the user."""
        plain = cls(objective, cu_seqlens, active, None, data, state)
        weights = None
        if objective.weights_tokens:
            weights = objective.token_weights(plain.lengths, plain._positions(), plain.sequence)
        if token_weights is not None:
            given = token_weights.to(wide_dtype(active.device)).masked_fill(~active, 0.0)
            weights = given if weights is None else given * weights
        return replace(plain, token_weights=weights)

    @computed_once
    def counts(self) -> Tensor:
        """``[K]`` active rows of each sequence."""
        return segment_sum(self.active.to(torch.float32), self.cu_seqlens).long()

    @computed_once
    def lengths(self) -> Tensor:
        """``[K]`` active rows of each sequence, at least 1."""
        return self.counts.clamp_min(1)

    @computed_once
    def sequence(self) -> Tensor:
        """``[T]`` the sequence of each row."""
        counts = self.cu_seqlens.to(self.active.device, torch.int64).diff()
        numbers = torch.arange(counts.shape[0], device=self.active.device)
        return torch.repeat_interleave(numbers, counts, output_size=self.active.shape[0])

    def _positions(self) -> Tensor:
        """``[T]`` number of each active row in its sequence, from 0."""
        before = self.active.long().cumsum(0)
        starts = self.cu_seqlens.to(self.active.device, torch.int64)[:-1]
        first = torch.where(starts > 0, before[(starts - 1).clamp_min(0)], torch.zeros_like(starts))
        return before - 1 - first[self.sequence]

    def without_logps(self) -> SequenceBatch:
        """The batch of this call before any log-prob is known; the objective checks it."""
        nothing = torch.zeros(self.lengths.shape, dtype=wide_dtype(self.active.device), device=self.active.device)
        return SequenceBatch(nothing, None, self.lengths, self.data, counts=self.counts, state=self.state)

    def sums(self, values: Tensor) -> Tensor:
        """``[T]`` token values to ``[K]`` weighted sums, in :func:`fastpref.packing.wide_dtype`."""
        values = values.to(wide_dtype(values.device))
        return segment_sum(values if self.token_weights is None else values * self.token_weights, self.cu_seqlens)

    def sequence_reference(self, reference: Tensor) -> Tensor:
        """``[K]`` sequence log-probs of a reference given per sequence or per token."""
        return reference if self._is_per_sequence(reference) else self.sums(reference)

    def _is_per_sequence(self, reference: Tensor) -> bool:
        return (
            reference.shape[0] != self.active.shape[0]
        )  # equal: every sequence is one row, and both forms are the same

    def batch(
        self,
        policy: Tensor,
        reference: Tensor | None,
        *,
        kl: Tensor | None = None,
        log_sum_sq_probs: Tensor | None = None,
    ) -> SequenceBatch:
        """The objective's input.

        Args:
            policy: ``[T]`` token log-probs, 0 on ignored rows.
            reference: ``[T]`` or ``[K]``, or ``None``.
            kl: ``[T]``, where the objective asked for it.
            log_sum_sq_probs: ``[T]``, where the objective asked for it.
        """
        wide = wide_dtype(policy.device)
        policy = policy.to(wide)
        reference = None if reference is None else reference.to(wide)
        aligned = None
        if log_sum_sq_probs is not None:
            mean = segment_sum(policy.detach() - log_sum_sq_probs.to(wide), self.cu_seqlens) / self.lengths
            aligned = mean.detach()
        tokens = None
        if self.objective.traits.level == "token" or "old_logps" in self.data:
            per_token = reference is not None and not self._is_per_sequence(reference)
            tokens = TokenBatch(policy, reference if per_token else None, self.active, self.sequence, self.cu_seqlens)
        return SequenceBatch(
            self.sums(policy),
            None if reference is None else self.sequence_reference(reference),
            self.lengths,
            self.data,
            counts=self.counts,
            unweighted=None if self.token_weights is None else segment_sum(policy, self.cu_seqlens),
            kl=None if kl is None else self.sums(kl),
            aligned=aligned,
            tokens=tokens,
            state=self.state,
            whole=self.whole,
        )

    def part(self, sequences: Sequence[int], rows: Tensor) -> Call:
        """The call of some of the sequences, whose rows, in order, are ``rows``."""
        picked = torch.tensor(sequences, device=self.active.device)
        count, total = self.lengths.shape[0], self.active.shape[0]
        boundaries = self.cu_seqlens.to(torch.int64)
        lengths = boundaries.diff()[picked.to(boundaries.device)]

        def select(name: str, value: Tensor) -> Tensor:
            shapes = DATA[name].shapes if name in DATA else ("K",)
            if "K" in shapes and value.shape == (count,):
                return value[picked]
            if "T" in shapes and value.shape == (total,):
                return value[rows]
            if "N" in shapes:
                return value[picked[: len(sequences) // 2]]
            return value

        return Call(
            self.objective,
            cu_seqlens_from_lengths(lengths),
            self.active[rows],
            None if self.token_weights is None else self.token_weights[rows],
            {name: select(name, value) for name, value in self.data.items()},
            self.state,
            self.without_logps(),
        )
