"""Stage 2: the objectives, their registry of names, and their declared traits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .._compile import constant
from ..errors import nearest
from . import catalogue_policy, catalogue_pra
from .base import (
    GroupObjective,
    Groups,
    Objective,
    PairwiseObjective,
    SequenceObjective,
    TokenObjective,
    Traits,
)
from .batch import SequenceBatch, TokenBatch
from .bda import BDA
from .from_function import FunctionObjective, from_function
from .mixture import Mixture
from .nll import NLL, SFT
from .policy_gradient_clip import GRPO, RLOO
from .policy_gradient_nash import NashMD
from .policy_gradient_ppo import PPO
from .policy_gradient_soft import CISPO, GMPO, SAPO
from .pra.batch_coupled import AOT, AOTUnpaired, BetaDPO
from .pra.kwise import NCA, TRPA, InfoNCA, PlackettLuce
from .pra.margin import (
    CDPO,
    DPO,
    RDPO,
    DiscoPOP,
    EXOPair,
    GPOExponential,
    GPOSavage,
    GPOSquared,
    GPOTruncatedSquared,
    Hinge,
    RobustDPO,
    RPOBackwardKL,
    RPOForwardKL,
)
from .pra.pairs import (
    CPO,
    DPOP,
    ORPO,
    SPPO,
    XPO,
    AlphaPO,
    APODown,
    APOZero,
    BCOPair,
    NCAPair,
    SigmoidNorm,
    SimPO,
    SLiCHF,
    SPPOHard,
)
from .pra.unpaired import BCO, KTO, APOZeroUnpaired
from .pra.vocabulary import TDPO1, TDPO2
from .ra import DROV, QRPO, RA, UNA, AStarPO, GroupRegression
from .rda import IPO, REBEL, IPOSum, RDAGroup, RPOSquared

__all__ = [
    "AOT",
    "BCO",
    "BDA",
    "CDPO",
    "CISPO",
    "CPO",
    "DPO",
    "DPOP",
    "DROV",
    "GMPO",
    "GRPO",
    "IPO",
    "KTO",
    "NCA",
    "NLL",
    "OBJECTIVES",
    "ORPO",
    "PPO",
    "QRPO",
    "RA",
    "RDPO",
    "REBEL",
    "RLOO",
    "SAPO",
    "SFT",
    "SPPO",
    "TDPO1",
    "TDPO2",
    "TRPA",
    "UNA",
    "XPO",
    "AOTUnpaired",
    "APODown",
    "APOZero",
    "APOZeroUnpaired",
    "AStarPO",
    "AlphaPO",
    "BCOPair",
    "BetaDPO",
    "DiscoPOP",
    "EXOPair",
    "FunctionObjective",
    "GPOExponential",
    "GPOSavage",
    "GPOSquared",
    "GPOTruncatedSquared",
    "GroupObjective",
    "GroupRegression",
    "Groups",
    "Hinge",
    "IPOSum",
    "InfoNCA",
    "Mixture",
    "NCAPair",
    "NashMD",
    "Objective",
    "PairwiseObjective",
    "PlackettLuce",
    "RDAGroup",
    "RPOBackwardKL",
    "RPOForwardKL",
    "RPOSquared",
    "RobustDPO",
    "SLiCHF",
    "SPPOHard",
    "SequenceBatch",
    "SequenceObjective",
    "SigmoidNorm",
    "SimPO",
    "TokenBatch",
    "TokenObjective",
    "Traits",
    "from_function",
    "hyper_parameters",
    "lookup",
    "objective",
    "register",
]


@dataclass(frozen=True)
class Entry:
    """What a name stands for: a class, with defaults of its own where the name is a preset of it."""

    cls: type[Objective]
    defaults: Mapping[str, Any] = field(default_factory=dict)


OBJECTIVES: dict[str, Entry] = {}
"""Every objective by name: TRL's where TRL has the loss."""


def register(cls: type[Objective], *presets: str, **defaults: Any) -> type[Objective]:
    """Make an objective known by its ``name``; or, with ``presets``, by further names under which ``defaults`` are its defaults."""
    for name in presets or (cls.name,):
        OBJECTIVES[name] = Entry(cls, defaults)
    return cls


for _cls, _names, _defaults in (*catalogue_pra.entries(), *catalogue_policy.entries()):
    register(_cls, *_names, **_defaults)


_HYPER_PARAMETERS: dict[type[Objective], list[str]] = {}
"""What was looked up before: every call of a loss asks."""


@constant
def hyper_parameters(cls: type[Objective]) -> list[str]:
    """The names of an objective's hyper-parameters."""
    if cls not in _HYPER_PARAMETERS:
        _HYPER_PARAMETERS[cls] = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # every Objective is a dataclass
    return _HYPER_PARAMETERS[cls]


def lookup(name: str) -> type[Objective]:
    """The class of that name; ``ValueError`` suggests the nearest."""
    if not isinstance(name, str):
        raise TypeError(f"objective: expected a name, found {name!r} ({type(name).__name__})")
    if name not in OBJECTIVES:
        raise ValueError(
            f"objective: unknown name {name!r}{nearest(name, OBJECTIVES)} (known: {', '.join(OBJECTIVES)})"
        )
    return OBJECTIVES[name].cls


def objective(loss_type: str | Sequence[str], /, **hyper: Any) -> Objective:
    """An objective by name, for example ``objective("sigmoid", beta=0.1)``; or a weighted sum of several, as TRL writes it:
    ``objective(["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], beta=0.1)``.

    Args:
        loss_type: a key of :data:`OBJECTIVES`, or a list of keys.
        **hyper: hyper-parameters; the class documents them with their defaults. In a mixture each goes to every loss that has it, and
            ``loss_weights`` are the weights (default 1 each).

    Raises:
        ValueError: an unknown name, or a hyper-parameter outside its range.
        TypeError: an unknown hyper-parameter.
    """
    if not isinstance(loss_type, (str, list, tuple)):
        raise TypeError(
            f"objective: expected a name or a list of names, found {loss_type!r} ({type(loss_type).__name__})"
        )
    given = hyper.get("loss_weights")
    if not isinstance(loss_type, str) and given is not None and not isinstance(given, (list, tuple)):
        raise TypeError(f"loss_weights: expected a list of numbers, found {given!r} ({type(given).__name__})")
    names = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    classes = [lookup(name) for name in names]
    known = list(dict.fromkeys(h for cls in classes for h in hyper_parameters(cls)))
    weights = None if isinstance(loss_type, str) else hyper.pop("loss_weights", None)
    for key in hyper:
        if key not in known:
            label = names[0] if len(names) == 1 else "+".join(names)
            raise TypeError(f"{label}: unknown option {key!r}{nearest(key, known)} (known: {', '.join(known)})")
    members = tuple(
        cls(**{**OBJECTIVES[name].defaults, **{k: v for k, v in hyper.items() if k in hyper_parameters(cls)}})
        for name, cls in zip(names, classes, strict=True)
    )
    return members[0] if isinstance(loss_type, str) else Mixture(members, None if weights is None else tuple(weights))
