"""Weighted sums of losses on the same items, TRL's ``loss_type=[...]`` with ``loss_weights`` (RPO, IRPO, MPO and the like)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require_number
from .base import Coupling, Objective, Traits
from .batch import SequenceBatch

_WIDER: tuple[Coupling, ...] = ("sequence", "pair", "group", "batch")


@dataclass(frozen=True)
class Mixture(Objective):
    """``sum_m weight_m * loss_m`` (RPO arXiv 2405.16436, IRPO arXiv 2404.19733, MPO arXiv 2411.10442).

    Args:
        members: the losses; all take the same kind of item (pairs, say), none works on tokens.
        weights: one per member; ``None`` for 1 each.
    """

    name: ClassVar[str] = "mixture"
    members: tuple[Objective, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("loss_type: expected at least one loss, found none")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"loss_weights: expected one per loss ({len(self.members)}), found {len(self.weights)}")
        for weight in self.weights or ():
            require_number("loss_weights", weight)
        for member in self.members:
            if member.traits.level == "token":
                raise ValueError(f"loss_type: {member.name} works on tokens and does not mix with other losses")
            if member.item != self.members[0].item:
                raise ValueError(
                    f"loss_type: {self.members[0].name} has a loss per {self.members[0].item} and {member.name} per {member.item}; "
                    "losses mix where both are per pair, per sequence or per group"
                )
        object.__setattr__(self, "traits", _joined([m.traits for m in self.members], [m.name for m in self.members]))

    def _weighted(self) -> list[tuple[float, Objective]]:
        return list(zip(self.weights or (1.0,) * len(self.members), self.members, strict=True))

    def _of(self, number: int, batch: SequenceBatch) -> SequenceBatch:
        """The batch with the state of one member."""
        if not batch.state:
            return batch
        prefix = f"{number}."
        state = {k.removeprefix(prefix): v for k, v in batch.state.items() if k.startswith(prefix)}
        return SequenceBatch(**{**batch.__dict__, "state": state})

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[items]``."""
        terms = [w * m.losses(self._of(i, batch)) for i, (w, m) in enumerate(self._weighted())]
        return torch.stack(terms).sum(dim=0)

    def items(self, batch: SequenceBatch) -> int:
        """That of every member."""
        return self.members[0].items(batch)

    def check(self, batch: SequenceBatch) -> None:
        """Every member's."""
        for member in self.members:
            member.check(batch)

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Those of all members; where two share a name, the first one's."""
        found: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            found = {**member.metrics(self._of(number, batch)), **found}
        return found

    @property
    def weights_tokens(self) -> bool:
        """Whether a member does."""
        return any(member.weights_tokens for member in self.members)

    def token_weights(self, lengths: Tensor, position: Tensor, sequence: Tensor) -> Tensor | None:
        """The members', which must agree: all losses see the same sequence sums."""
        found = [m.token_weights(lengths, position, sequence) for m in self.members]
        if any((w is None) != (found[0] is None) for w in found):
            raise ValueError("ld_alpha: expected the same for every loss of the mixture")
        first = found[0]
        if first is not None and not all(w is not None and torch.equal(w, first) for w in found):
            raise ValueError("ld_alpha: expected the same for every loss of the mixture")
        return first

    def initial_state(self) -> dict[str, Tensor]:
        """The members', each under its number."""
        return {f"{i}.{k}": v for i, m in enumerate(self.members) for k, v in m.initial_state().items()}

    def next_state(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The members'."""
        return {f"{i}.{k}": v for i, m in enumerate(self.members) for k, v in m.next_state(self._of(i, batch)).items()}


def _joined(traits: Sequence[Traits], names: Sequence[str]) -> Traits:
    """What a sum of losses is, of what its members are."""
    required = any(t.reference == "required" for t in traits)
    none = all(t.reference == "none" for t in traits)
    data = tuple(dict.fromkeys(d for t in traits for d in t.data))
    optional = tuple(dict.fromkeys(d for t in traits for d in t.optional_data if d not in data))
    return Traits(
        scenario=traits[0].scenario,
        target="that of the weighted sum; none in closed form",
        formula=" + ".join(f"w * {name}" for name in names),
        derivative="the weighted sum of the members'",
        coupling=_WIDER[max(_WIDER.index(t.coupling) for t in traits)],
        reference="required" if required else "none" if none else "optional",
        paper=traits[0].paper,
        margin_only=all(t.margin_only for t in traits),
        token_reduction="mean" if any(t.token_reduction == "mean" for t in traits) else "sum",
        data=data,
        optional_data=optional,
        vocabulary=tuple(dict.fromkeys(v for t in traits for v in t.vocabulary)),
        stateful=any(t.stateful for t in traits),
        surrogate=any(t.surrogate for t in traits),
    )
