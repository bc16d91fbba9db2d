"""Means over batches of different size, and the held-out loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..preference import preference_loss
from .batches import Layout, collate, micro_batches
from .model import PreferenceModel
from .objective import data_from_pairs
from .reference import PrecomputedReference, ReferenceSource
from .tokenization import TokenizedPairs


@dataclass(frozen=True)
class Split:
    """A data set with its reference."""

    data: TokenizedPairs
    reference: ReferenceSource


@dataclass
class Means:
    """Running means of scalars on the device; nothing is synchronised before :meth:`values`."""

    _sums: dict[str, Tensor] = field(default_factory=dict)
    _weight: int = 0

    def add(self, scalars: Mapping[str, Tensor], weight: int) -> None:
        """Fold in the means of ``weight`` items."""
        for name, value in scalars.items():
            term = value.detach() * weight
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._weight += weight

    def values(self) -> dict[str, float]:
        """The means over all items."""
        return {name: float(total) / self._weight for name, total in self._sums.items()}


@torch.no_grad()
def evaluate(
    policy: PreferenceModel,
    split: Split,
    *,
    layout: Layout,
    batch_size: int,
    check: Callable[[], None],
    untrained: bool = False,
) -> dict[str, float]:
    """Loss and metrics over a data set, means over its pairs.

    Args:
        policy: the model; its mode is kept.
        split: the data.
        layout: of the batches.
        batch_size: pairs per forward pass.
        check: called between passes; may raise.
        untrained: the policy still is the reference: where the reference's log-probs are cached, they are the policy's, and nothing is run.
    """
    cached = isinstance(split.reference, PrecomputedReference)
    known = untrained and cached and not policy.objective.traits.vocabulary
    was_training = policy.training
    policy.eval()
    means = Means()
    try:
        for pairs in micro_batches(range(len(split.data)), batch_size):
            check()
            batch = collate(split.data, pairs, layout).to(policy.device)
            reference = split.reference.of(batch)
            if known and isinstance(reference, Tensor):
                out = preference_loss(
                    policy.objective,
                    reference,
                    reference,
                    cu_seqlens=batch.cu_seqlens,
                    state=policy.objective_state,
                    **data_from_pairs(policy.objective, len(pairs), reference.device),
                )
            else:
                out = policy(batch, reference)
            means.add({"loss": out.loss, **out.metrics}, len(pairs))
    finally:
        policy.train(was_training)
    return means.values()
