"""Stage 2: the objectives, their registry of names, and their declared traits."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import nearest
from .base import Objective, PairwiseObjective, SequenceBatch, Traits
from .pra import DPO

__all__ = [
    "DPO",
    "OBJECTIVES",
    "Objective",
    "PairwiseObjective",
    "SequenceBatch",
    "Traits",
    "hyper_parameters",
    "objective",
    "register",
]

OBJECTIVES: dict[str, type[Objective]] = {}
"""Every objective by name: TRL's where TRL has the loss."""


def register(cls: type[Objective]) -> type[Objective]:
    """Make an objective known by its ``name``."""
    OBJECTIVES[cls.name] = cls
    return cls


register(DPO)


def hyper_parameters(cls: type[Objective]) -> list[str]:
    """The names of an objective's hyper-parameters."""
    return [f.name for f in fields(cls)]  # type: ignore[arg-type]  # every Objective is a dataclass


def lookup(name: str) -> type[Objective]:
    """The class of that name; ``ValueError`` suggests the nearest."""
    if name not in OBJECTIVES:
        raise ValueError(
            f"objective: unknown name {name!r}{nearest(name, OBJECTIVES)} (known: {', '.join(OBJECTIVES)})"
        )
    return OBJECTIVES[name]


def objective(name: str, **hyper: Any) -> Objective:
    """An objective by name, for example ``objective("sigmoid", beta=0.1)``.

    Args:
        name: a key of :data:`OBJECTIVES`.
        **hyper: its hyper-parameters; the class documents them with their defaults.

    Raises:
        ValueError: an unknown name, or a hyper-parameter outside its range.
        TypeError: an unknown hyper-parameter.
    """
    cls = lookup(name)
    known = hyper_parameters(cls)
    for key in hyper:
        if key not in known:
            raise TypeError(f"{name}: unknown option {key!r}{nearest(key, known)} (known: {', '.join(known)})")
    return cls(**hyper)
