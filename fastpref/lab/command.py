"""``fastpref lab``: run the experiments, print what was measured beside what is expected, draw the pictures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from .._files import write_atomic
from ..errors import UserError, nearest
from .experiments import EXPERIMENTS
from .plots import draw, require_matplotlib
from .report import render, summary


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="fastpref lab",
        description="Tabular experiments on what preference algorithms converge to, and how fast (the UDRRA framework, arXiv 2502.03095). "
        "Every cell is 'measured | expected': ok agrees, NO does not, ~ is random and not judged. "
        "Exit status 1 if a deterministic number differs in a printed digit or a random ordering fails.",
    )
    result.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(EXPERIMENTS)}")
    result.add_argument(
        "--output",
        type=Path,
        default=Path("lab-output"),
        metavar="DIR",
        help="directory for the PNG files (default: %(default)s)",
    )
    result.add_argument(
        "--quick",
        action="store_true",
        help="three seeds instead of six, and longer steps where the printed digits stay the same",
    )
    result.add_argument(
        "--no-plots", action="store_true", help="print the tables only; needs no matplotlib, writes nothing"
    )
    return result


def main(argv: Sequence[str]) -> int:
    """Run the sections.

    Returns:
        0 if all agrees, 1 if not.

    Raises:
        UserError: matplotlib is missing, or the output is not a directory.
        SaveError: a picture could not be written.
    """
    options = parser().parse_args(list(argv))
    for name in options.sections:
        if name not in EXPERIMENTS:
            parser().error(f"unknown section {name!r}{nearest(name, EXPERIMENTS)}; expected {', '.join(EXPERIMENTS)}")
    if not options.no_plots:
        require_matplotlib()
        if options.output.exists() and not options.output.is_dir():
            raise UserError(f"--output: expected a directory or nothing, found a file: {options.output}")
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {options.output}: cannot be written: {error.strerror}") from error
    began = time.monotonic()
    done = []
    for name, run in EXPERIMENTS.items():
        if options.sections and name not in options.sections:
            continue
        experiment = run(quick=options.quick)
        print(render(experiment), flush=True)
        if not options.no_plots:
            paths = [options.output / f"{picture.name}.png" for picture in experiment.pictures]
            for path, picture in zip(paths, experiment.pictures, strict=True):
                write_atomic(path, draw(picture), what="a picture")
            print(f"\n  pictures: {', '.join(str(path) for path in paths)}")
        print(flush=True)
        done.append(experiment)
    print(summary(done, time.monotonic() - began))
    return int(any(experiment.disagreements for experiment in done))
