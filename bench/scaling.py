"""That cost grows linearly in the number of rows and in the vocabulary, over a decade each, and what a second thread brings.

    python bench/scaling.py [--what head logits] [--dtypes float32 bfloat16] [--repeats 7] [--hidden 576] [--base-rows 256 --base-vocab 12800]
                            [--points 5] [--threads 1 2] [--json FILE]

``head`` is DPO from hidden states, forward and backward, the reference online, with the planner's default; ``logits`` is from given logits, the
backward pass in place. T runs from --base-rows over a decade at V = --base-vocab, and V from --base-vocab over a decade at T = --base-rows. All
sizes run once per round, in turn. ``slope`` is that of log time over log size (1: linear), R^2 and the residuals are those of the
straight line ``time = fixed + size * rate`` fitted to the medians, a residual as a share of the time. The speed-up of threads is the median of
the ratios within a round, both in one process.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import head
import head_contestants
import logits_given
import torch
from measure import interleaved, write_json

SEQUENCES = 4
AXES = ("T", "V")


@dataclass(frozen=True)
class Fit:
    """Slope of log y over log x, and the least-squares line y = fixed + rate x with its R^2 and relative residuals."""

    slope: float
    fixed: float
    rate: float
    r_squared: float
    residuals: list[float]


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    rate = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.fsum(
        (a - mean_x) ** 2 for a in x
    )
    return mean_y - rate * mean_x, rate


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Of at least two different positive sizes ``x`` and positive times ``y``."""
    _, slope = _line([math.log(a) for a in x], [math.log(b) for b in y])
    fixed, rate = _line(x, y)
    misses = [b - fixed - rate * a for a, b in zip(x, y, strict=True)]
    mean = math.fsum(y) / len(y)
    spread = math.fsum((b - mean) ** 2 for b in y)
    r_squared = 1 - math.fsum(m * m for m in misses) / spread if spread > 0 else 1.0
    return Fit(slope, fixed, rate, r_squared, [m / b for m, b in zip(misses, y, strict=True)])


def decade(start: int, points: int, multiple: int) -> list[int]:
    """``points`` sizes from ``start`` to ten times that, evenly spaced in their logarithm, multiples of ``multiple``."""
    return [multiple * round(start * 10 ** (i / (points - 1)) / multiple) for i in range(points)]


def workload(what: str, rows: int, vocab: int, dtype: torch.dtype, hidden: int) -> Callable[[], object]:
    """One step of this package at one size."""
    if what == "logits":
        given = logits_given.Problem(rows, SEQUENCES, vocab, dtype)
        return given.backward(logits_given.in_place)
    p = head_contestants.Problem.make(rows, SEQUENCES, hidden, vocab, dtype)
    form = head_contestants.CONTESTANTS["fastpref"].load(head_contestants.Scenario(), dtype)

    def run() -> None:
        p.zero_grad()
        head.step(form, p)

    return run


def growth(args: argparse.Namespace, what: str, dtype: str, axis: str) -> dict[str, Any]:
    """One axis: prints its fit and the times it is made from."""
    start = args.base_rows if axis == "T" else args.base_vocab
    sizes = decade(start, args.points, SEQUENCES if axis == "T" else 64)
    runs = {}
    for size in sizes:
        rows, vocab = (size, args.base_vocab) if axis == "T" else (args.base_rows, size)
        runs[str(size)] = workload(what, rows, vocab, getattr(torch, dtype), args.hidden)
    medians = list(interleaved(runs, args.repeats).medians().values())
    found = fit(sizes, medians)
    fixed = f"T={args.base_rows}" if axis == "V" else f"V={args.base_vocab}"
    print(f"\n{what}, {dtype}, {fixed}, {axis} from {sizes[0]} to {sizes[-1]}")
    print(
        f"  slope {found.slope:.3f}, R^2 {found.r_squared:.5f}, {1e3 * found.fixed:.2f} ms + {1e6 * found.rate:.3f} us x {axis}"
    )
    for size, seconds, residual in zip(sizes, medians, found.residuals, strict=True):
        print(f"  {axis}={size:<8}{1e3 * seconds:10.2f} ms   residual {residual:+7.1%}")
    return {"what": what, "dtype": dtype, "axis": axis, "sizes": sizes, "seconds": medians, "fit": asdict(found)}


def threads(args: argparse.Namespace, what: str, dtype: str) -> dict[str, Any]:
    """Speed-up of each number of threads over the first, at the middle of both decades."""
    rows = decade(args.base_rows, 3, SEQUENCES)[1]
    run = workload(what, rows, decade(args.base_vocab, 3, 64)[1], getattr(torch, dtype), args.hidden)
    before = torch.get_num_threads()
    try:
        counts = {str(count): run for count in args.threads}
        times = interleaved(counts, args.repeats, before=lambda count: torch.set_num_threads(int(count)))
    finally:
        torch.set_num_threads(before)
    first, *others = counts
    speed = {count: times.ratio(first, count) for count in others}
    for count, factor in speed.items():
        print(f"\n{what}, {dtype}, T={rows}: {count} threads {factor:.2f}x as fast as {first}")
    return {"what": what, "dtype": dtype, "medians": times.medians(), "speedup": speed}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=["head", "logits"], choices=["head", "logits"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--base-rows", type=int, default=256, help="a multiple of 4")
    parser.add_argument("--base-vocab", type=int, default=12800)
    parser.add_argument("--points", type=int, default=5, help="sizes per decade, at least 3")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(argv)
    if args.base_rows % SEQUENCES or args.points < 3:
        parser.error(f"expected --base-rows a multiple of {SEQUENCES} and --points of at least 3")

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {args.repeats} rounds")
    cases = [(what, dtype) for what in args.what for dtype in args.dtypes]
    content = {
        "growth": [growth(args, what, dtype, axis) for what, dtype in cases for axis in AXES],
        "threads": [threads(args, what, dtype) for what, dtype in cases] if len(args.threads) > 1 else [],
    }
    write_json(args.json, content)


if __name__ == "__main__":
    sys.exit(main())
