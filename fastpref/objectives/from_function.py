"""A loss of your own: a plain function of sequence log-probs as an objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .base import Coupling, Objective, Traits, pair_metrics
from .batch import SequenceBatch


@dataclass(frozen=True, eq=False)  # equal if it is the same object: functions and tensors have no value to compare
class FunctionObjective(Objective):
    """See :func:`from_function`."""

    function: Callable[..., Tensor]
    coupling: Coupling = "batch"
    reference: Literal["required", "optional", "none"] = "optional"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        takes = inspect.signature(self.function).parameters
        object.__setattr__(self, "_takes_lengths", "lengths" in takes)
        object.__setattr__(self, "name", getattr(self.function, "__name__", type(self.function).__name__))
        traits = Traits(
            scenario="PRA",
            target="whatever the function says",
            formula=self.name,
            derivative="by autograd",
            coupling=self.coupling,
            reference=self.reference,
            paper="none",
            data=("lengths",) if "lengths" in takes else (),
        )
        object.__setattr__(self, "traits", traits)

    def losses(self, batch: SequenceBatch) -> Tensor:
        """What the function returns, as one dimension."""
        given: dict[str, Any] = {**self.options, **batch.data}
        if self._takes_lengths:  # type: ignore[attr-defined]
            given["lengths"] = batch.lengths
        found = self.function(batch.policy, batch.reference, **given)
        if not isinstance(found, Tensor) or found.dim() > 1 or not found.dtype.is_floating_point:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{self.name}: expected a floating scalar or one loss per item, found {shape}")
        if found.dim() == 0 and self.coupling != "batch":
            raise TypeError(f"{self.name}: coupling={self.coupling!r} needs one loss per item, found a scalar")
        if self.coupling != "batch" and found.shape[0] != self.items(batch):
            raise TypeError(
                f"{self.name}: coupling={self.coupling!r}: expected {self.items(batch)} losses, found {found.shape[0]}"
            )
        return found.reshape(-1)

    def items(self, batch: SequenceBatch) -> int:
        """N pairs or K sequences; 1 for a loss of the whole batch."""
        sequences = batch.policy.shape[0]
        return {"pair": sequences // 2, "sequence": sequences}.get(self.coupling, 1)

    def check(self, batch: SequenceBatch) -> None:
        """K must be even for pairs."""
        super().check(batch)
        if self.coupling == "pair" and batch.policy.shape[0] % 2:
            raise ValueError(
                f"{self.name}: expected an even number of sequences (N chosen, then N rejected), found {batch.policy.shape[0]}"
            )

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Those of pairs (with ``beta`` where the function was given one), or the mean log-prob."""
        if self.coupling == "pair":
            return pair_metrics(float(self.options.get("beta", 1.0)), batch)
        with torch.no_grad():
            return {"logps/mean": batch.policy.mean()}


def from_function(
    function: Callable[..., Tensor],
    *,
    coupling: Coupling = "batch",
    reference: Literal["required", "optional", "none"] = "optional",
    **options: Any,
) -> FunctionObjective:
    """An objective from a plain function of sequence log-probs; its gradient is taken by autograd.

    The function gets ``policy [K]`` and ``reference [K]`` (or ``None``), both float64, the ``options``, further tensors of the call by name, and
    ``lengths [K]`` if it has a parameter of that name. Its parameters must not have the name of an argument of the call (``temperature``, ``mask``): the
    call would take them. It returns a scalar, or one loss per item, of which the mean is taken.

    Args:
        function: ``function(policy, reference, **options) -> losses``.
        coupling: ``"batch"``: nothing is known of it (plan D0). ``"pair"``: it returns ``[N]`` losses of N chosen, then N rejected sequences, each of
            its own pair alone; it is then also called with fewer pairs, and the one-pass plan D1 is open to it. ``"sequence"``: likewise, ``[K]``.
        reference: whether a reference is required, optional or refused.
        **options: given to the function in every call.

    Example:
        >>> import torch, fastpref
        >>> def cube(policy, reference, *, scale):
        ...     chosen, rejected = (policy - reference).chunk(2)
        ...     return (1 - scale * (chosen - rejected)) ** 3
        >>> logps = torch.tensor([-10.0, -12.0])
        >>> fastpref.preference_loss(fastpref.objectives.from_function(cube, coupling="pair", scale=0.1), logps, logps).loss.item()
        1.0
    """
    if not callable(function):
        raise TypeError(f"function: expected a callable, found {type(function).__name__}")
    if coupling not in ("sequence", "pair", "batch"):
        raise ValueError(f"coupling: expected 'batch', 'pair' or 'sequence', found {coupling!r}")
    return FunctionObjective(function, coupling, reference, options)
