"""A tabular laboratory for preference optimisation: one prompt, ``n`` responses, every expectation exact, numpy in float64.

It shows on instances small enough to solve in closed form what the UDRRA framework (arXiv 2502.03095) says about BDA, RA, RDA and PRA (DPO is PRA
with a reference and a fixed data set): one target, its temperature, the rate by pair design, and what sampling changes.

Example:
    >>> from fastpref import lab
    >>> instance = lab.Instance([0.0, 0.5, 1.0], tau=0.5, log_reference=[1.0, 0.0, 0.0])
    >>> end = lab.descend(instance, lab.PRA(lab.pairs.uniform(3)), lr=4.0, steps=2000)
    >>> bool(instance.distance(end.theta) < 1e-12)
    True
"""

from __future__ import annotations

from collections.abc import Sequence

from . import limits, pairs, targets
from .descent import Descent, contraction, descend, steps_to_target
from .instance import Instance
from .losses import BDA, ON_POLICY, PRA, RA, RDA, Loss, PolicyGradient, Update, group_rda, shift_bounds
from .sampling import sampled_dpo

__all__ = [
    "BDA",
    "ON_POLICY",
    "PRA",
    "RA",
    "RDA",
    "Descent",
    "Instance",
    "Loss",
    "PolicyGradient",
    "Update",
    "contraction",
    "descend",
    "group_rda",
    "limits",
    "pairs",
    "sampled_dpo",
    "shift_bounds",
    "steps_to_target",
    "targets",
]


def main(argv: Sequence[str]) -> int:
    """Run ``fastpref lab`` with the arguments ``argv``; its exit status."""
    from .command import main as run

    return run(argv)
