"""Every loss of the family through every plan that its traits allow, against the composition from full logits in plain PyTorch.

    python bench/plans.py [--dtype float64|float32]

Prints one row per name: what it couples, and for each plan the largest relative deviation of the gradients (of hidden states, head and
learnt data). ``-`` is a plan that the loss does not allow: the planner refuses it. Exits with 1 if a deviation is above 1e-9 (float64)
or 1e-4 (float32).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import family

PLANS = ("D0", "D1")
LIMITS = {"float64": 1e-9, "float32": 1e-4}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=LIMITS, default="float64")
    dtype = parser.parse_args().dtype
    print(f"{'loss':<22}{'coupling':<10}{'level':<10}" + "".join(f"{p:>10}" for p in PLANS))
    worst = 0.0
    for name, objective in family.variants().items():
        found = dict.fromkeys(PLANS, "-")
        for plan in family.plans(objective):
            _, gradient = family.deviation(family.linear_call(objective, getattr(torch, dtype)), plan=plan)
            worst = max(worst, gradient)
            found[plan] = f"{gradient:.1e}"
        traits = objective.traits
        print(f"{name:<22}{traits.coupling:<10}{traits.level:<10}" + "".join(f"{found[p]:>10}" for p in PLANS))
    print(f"{len(family.variants())} losses, largest deviation {worst:.1e} (limit {LIMITS[dtype]:.0e})")
    return int(worst > LIMITS[dtype])


if __name__ == "__main__":
    sys.exit(main())
