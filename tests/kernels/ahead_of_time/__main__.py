"""Compile the kernels for GPUs that are not here and keep, or check, what the compilers made of them.

    python -m tests.kernels.ahead_of_time                    # all targets; writes bench/ahead_of_time.json and .md
    python -m tests.kernels.ahead_of_time --check            # writes nothing, fails where something got worse
    python -m tests.kernels.ahead_of_time --check --main                               # as the tests do: half a minute on two cores
    python -m tests.kernels.ahead_of_time --check --targets sm_100 gfx950 --only row_stats
    python -m tests.kernels.ahead_of_time --only row_stats                             # replaces these kernels in the table

Needs no GPU; a kernel and a target take about a second.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ["TRITON_INTERPRET"] = "0"  # before triton is imported

import triton

from ...emulation.stand_in_driver import TARGETS, VERSION
from . import report
from .cases import CASES, is_main
from .compiling import compile_all

MAIN_TARGETS = ["sm_90", "gfx942"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.ahead_of_time", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--check", action="store_true", help="compare with the kept table and write nothing")
    add("--main", action="store_true", help=f"the main variants only, for {', '.join(MAIN_TARGETS)}")
    add("--targets", nargs="+", choices=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    add("--only", nargs="+", default=[""], metavar="TEXT", help="cases with one of these texts in their names")
    add("--jobs", type=int, default=os.cpu_count(), help="processes at once (%(default)s)")
    arguments = parser.parse_args()
    targets = arguments.targets or (MAIN_TARGETS if arguments.main else list(TARGETS))
    if triton.__version__ != VERSION:
        parser.error(f"the stand-in driver is written for triton {VERSION}, found {triton.__version__}")

    indices = [i for i, case in enumerate(CASES) if any(text in case.name for text in arguments.only)]
    if arguments.main:
        indices = [i for i in indices if is_main(i)]
    table = compile_all(indices, targets, arguments.jobs)
    cases = [CASES[i] for i in indices]
    if arguments.check:
        wrong = report.complaints(cases, targets, table, report.load())
    else:
        report.save(table if len(cases) == len(CASES) and targets == list(TARGETS) else report.updated(table))
        print(f"wrote {report.KEPT.name} and {report.SHOWN.name}")
        wrong = report.complaints(cases, targets, table, None)
    print(f"{len(cases)} kernels and variants x {len(targets)} targets: {len(wrong)} complaints")
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
