"""The names of the preference losses: TRL's where TRL has the loss, with its key in the literature beside it where that differs."""

from __future__ import annotations

from typing import Any

from .base import Objective
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
from .rda import IPO, REBEL, IPOSum, RPOSquared

Entries = list[tuple[type[Objective], tuple[str, ...], dict[str, Any]]]


def entries() -> Entries:
    """``(class, names, defaults)``: what each name stands for, and the hyper-parameters that it sets where it is a preset."""
    alone: tuple[type[Objective], ...] = (
        *(CDPO, RobustDPO, Hinge, EXOPair, DiscoPOP),
        *(GPOExponential, GPOSquared, GPOTruncatedSquared, GPOSavage, RPOForwardKL, RDPO),
        *(IPO, IPOSum, REBEL),
        *(SigmoidNorm, NCAPair, BCOPair, APOZero, APODown, SPPOHard, SPPO, DPOP),
        *(CPO, SimPO, AlphaPO, ORPO, SLiCHF, XPO, TDPO1, TDPO2),
        *(KTO, APOZeroUnpaired, BCO, AOT, AOTUnpaired, BetaDPO),
        *(PlackettLuce, InfoNCA, NCA, TRPA),
    )
    return [
        (DPO, ("sigmoid", "dpo", "f_dpo"), {}),
        (DPO, ("ld_dpo",), {"ld_alpha": 0.5}),
        (DPO, ("wpo",), {"use_weighting": True}),
        (RPOBackwardKL, ("rpo_bwd_kl", "pra"), {}),
        (RPOSquared, ("rpo_sq", "rda"), {}),
        *((cls, (cls.name,), {}) for cls in alone),
    ]
