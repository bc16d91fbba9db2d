"""``fastpref demo``: a real model, real human preferences, trained with the fused DPO loss on a CPU in minutes.

Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse the options, run, print the table; the exit status is 0, or 128 + the signal's number after an interruption."""
    from ..train.run import require_extra

    require_extra()
    import tyro

    from .run import DemoConfig, run

    return run(tyro.cli(DemoConfig, prog="fastpref demo", args=list(argv)))
