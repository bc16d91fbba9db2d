"""The names of the pointwise, policy-gradient and likelihood losses."""

from __future__ import annotations

from typing import Any

from .base import Objective
from .bda import BDA
from .nll import NLL, SFT
from .policy_gradient_clip import GRPO, RLOO
from .policy_gradient_nash import NashMD
from .policy_gradient_ppo import PPO
from .policy_gradient_soft import CISPO, GMPO, SAPO
from .ra import DROV, QRPO, RA, UNA, AStarPO, GroupRegression
from .rda import RDAGroup


def entries() -> list[tuple[type[Objective], tuple[str, ...], dict[str, Any]]]:
    """``(class, names, defaults that belong to those names)``; a class's own name comes without defaults."""
    return [
        (BDA, ("bda",), {}),
        (RA, ("ra",), {}),
        (GroupRegression, ("group_regression",), {}),
        (DROV, ("dro_v",), {}),
        (QRPO, ("qrpo",), {}),
        (AStarPO, ("astar_po",), {}),
        (UNA, ("una",), {}),
        (UNA, ("una_binary",), {"mode": "binary", "beta": 0.01}),
        (RDAGroup, ("rda_group",), {}),
        (PPO, ("ppo",), {}),
        (RLOO, ("rloo",), {}),
        (GRPO, ("grpo",), {}),
        (GRPO, ("dapo",), {"loss_aggregation": "dapo", "epsilon_high": 0.28}),
        (GRPO, ("bnpo",), {"loss_aggregation": "bnpo"}),
        (GRPO, ("dr_grpo",), {"loss_aggregation": "dr_grpo"}),
        (GRPO, ("luspo",), {"loss_aggregation": "luspo", "importance_sampling_level": "sequence"}),
        (GRPO, ("gspo",), {"importance_sampling_level": "sequence"}),
        (CISPO, ("cispo",), {}),
        (SAPO, ("sapo",), {}),
        (GMPO, ("gmpo",), {}),
        (NashMD, ("nash_md",), {}),
        (NLL, ("nll",), {}),
        (SFT, ("sft",), {}),
    ]
