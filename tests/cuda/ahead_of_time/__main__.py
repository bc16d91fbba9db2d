"""Compile the CUDA kernels for GPUs that are not here and keep, or check, what nvcc made of them.

    python -m tests.cuda.ahead_of_time                          # all targets; writes bench/cuda_ahead_of_time.json and .md
    python -m tests.cuda.ahead_of_time --check                  # writes nothing, fails where something got worse
    python -m tests.cuda.ahead_of_time --check --targets sm_90  # as the tests do

Needs nvcc and no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import compiling, report
from .rules import RULES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.ahead_of_time", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--check", action="store_true", help="compare with the kept table and write nothing")
    add("--targets", nargs="+", choices=compiling.TARGETS, metavar="TARGET", help=", ".join(compiling.TARGETS))
    add("--jobs", type=int, default=os.cpu_count(), help="processes at once (%(default)s)")
    arguments = parser.parse_args()
    if arguments.targets and not arguments.check:
        parser.error("--targets goes with --check: the kept table has all of them")
    if reason := compiling.missing():
        parser.error(reason)
    targets = arguments.targets or compiling.TARGETS
    table = compiling.compile_all(targets, jobs=arguments.jobs)
    if arguments.check:
        wrong = report.complaints(targets, RULES, table, report.load())
    else:
        report.save(table)
        print(f"wrote {report.KEPT.name} and {report.SHOWN.name}")
        wrong = report.complaints(targets, RULES, table, None)
    print(f"{len(table['kernels'])} kernels x {len(targets)} targets: {len(wrong)} complaints")
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
