"""The plans against each other: every loss through every plan that its traits allow, and what plans predict against what their runs take.

    python bench/plans.py [--dtype float64|float32]
    python bench/plans.py --figures [--rows 512 --hidden 256 --vocab 16000 --budget-bytes N --repeats 5] [--dtype float32|bfloat16]

The first prints one row per loss: what it couples, and for each plan the largest relative deviation of the gradients (of hidden states, head
and learnt data) from the composition from full logits in plain PyTorch. ``-`` is a plan that the loss does not allow: the planner
refuses it. Exits with 1 if a deviation is above 1e-9 (float64) or 1e-4 (float32).

The second prints, for a DPO loss in several situations, each plan's FLOPs and peak scratch as predicted and as measured, the cost that the
planner ranks by, and the median time of forward and backward; ``*`` is the plan that the planner takes. Exits with 1 if FLOPs differ or
a run takes more scratch than predicted.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import fastpref
from fastpref.planner import DESIGNS
from fastpref.work import count_gemm
from tests import family

LIMITS = {"float64": 1e-9, "float32": 1e-4}
SITUATIONS = {
    "full fine-tuning": {},
    "half of the rows ignored": {"ignored": True},
    "frozen head": {"frozen": "weight"},
    "frozen backbone": {"frozen": "hidden"},
    "reference online": {"reference": "online"},
    "reference with the same head": {"reference": "shared"},
}


def agreement(dtype: str) -> int:
    """Print the table of deviations."""
    print(f"{'loss':<22}{'coupling':<10}{'level':<10}" + "".join(f"{p:>10}" for p in DESIGNS))
    worst = 0.0
    for name, objective in family.variants().items():
        found: dict[str, str] = dict.fromkeys(DESIGNS, "-")
        for plan in family.plans(objective):
            _, gradient = family.deviation(family.linear_call(objective, getattr(torch, dtype)), plan=plan)
            worst = max(worst, gradient)
            found[plan] = f"{gradient:.1e}"
        traits = objective.traits
        print(f"{name:<22}{traits.coupling:<10}{traits.level:<10}" + "".join(f"{found[p]:>10}" for p in DESIGNS))
    print(f"{len(family.variants())} losses, largest deviation {worst:.1e} (limit {LIMITS[dtype]:.0e})")
    return int(worst > LIMITS[dtype])


def make(args: argparse.Namespace, ignored: bool = False, frozen: str = "", reference: str = "") -> dict[str, Any]:
    """The arguments of a call: four pairs."""
    g = torch.Generator().manual_seed(0)
    dtype, length = getattr(torch, args.dtype), args.rows // 8
    hidden, near = (torch.randn(8 * length, args.hidden, generator=g).to(dtype) for _ in range(2))
    weight = (torch.randn(args.vocab, args.hidden, generator=g) / args.hidden**0.5).to(dtype)
    targets = torch.randint(0, args.vocab, (8 * length,), generator=g)
    if ignored:
        targets[::2] = -100
    call = {"hidden": hidden, "weight": weight}
    for name in ("hidden", "weight"):
        call[name].requires_grad_(name != frozen)
    references = {"": torch.zeros(8), "online": (near, weight.detach().clone()), "shared": (near, weight)}
    cu_seqlens = torch.arange(0, 8 * length + 1, length, dtype=torch.int32)
    return {**call, "targets": targets, "cu_seqlens": cu_seqlens, "reference": references[reference]}


def step(call: dict[str, Any], **options: Any) -> float:
    """Seconds of one forward and backward."""
    call["hidden"].grad = call["weight"].grad = None
    start = time.perf_counter()
    fastpref.linear_preference_loss("sigmoid", **call, **options).loss.backward()
    return time.perf_counter() - start


def figures(args: argparse.Namespace) -> int:
    """Print what plans predict and what their runs take."""
    wrong = 0
    heads = ("GFLOP", "counted", "MiB", "found", "cost ms", "time ms")
    print(f"T={args.rows}, H={args.hidden}, V={args.vocab}, {args.dtype}, {torch.get_num_threads()} threads")
    for situation, changes in SITUATIONS.items():
        call = make(args, **changes)
        auto = fastpref.linear_preference_loss("sigmoid", **call, budget_bytes=args.budget_bytes, explain=True)
        print(f"\n{situation:<32}" + "".join(f"{head:>10}" for head in heads))
        plans = {}
        for design in DESIGNS:
            options = {"plan": design, "budget_bytes": args.budget_bytes}
            try:
                plans[design] = fastpref.linear_preference_loss("sigmoid", **call, **options, explain=True), options
            except ValueError as refused:
                print(f"  {design}   {str(refused).split(': ', 2)[-1]}")
        times: dict[str, list[float]] = {design: [] for design in plans}
        for _ in range(args.repeats):
            for design, (_, options) in plans.items():
                times[design].append(step(call, **options))
        for design, (plan, options) in plans.items():
            with count_gemm() as work:
                step(call, **options)
            gradients = sum(g.nbytes for g in (call["hidden"].grad, call["weight"].grad) if g is not None)
            scratch = max(work.peak_bytes - gradients, 0)
            wrong += work.flops != plan.flops or scratch > plan.scratch_bytes
            cells = (
                f"{plan.flops / 1e9:.2f}", f"{work.flops / 1e9:.2f}", f"{plan.scratch_bytes / 2**20:.1f}",
                f"{scratch / 2**20:.1f}", f"{1e3 * plan.seconds:.1f}", f"{1e3 * statistics.median(times[design]):.1f}",
            )  # fmt: skip
            mark = "*" if design == auto.design else " "
            print(f"  {design} {mark:<27}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"\n{wrong} plans took other FLOPs or more scratch than predicted")
    return int(wrong > 0)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float64", "float32", "bfloat16"), default=None)
    parser.add_argument("--figures", action="store_true", help="predictions against measurements")
    for name, default in (("rows", 512), ("hidden", 256), ("vocab", 16000), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget-bytes", type=int, default=None, help="default: the package's own, 64 MiB")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.figures else "float64")
    if args.figures:
        return figures(args)
    if args.dtype not in LIMITS:
        parser.error(f"--dtype: expected one of {', '.join(LIMITS)} without --figures, found {args.dtype}")
    return agreement(args.dtype)


if __name__ == "__main__":
    sys.exit(main())
