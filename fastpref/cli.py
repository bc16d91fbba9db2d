"""The command line: ``fastpref demo | train | lab | doctor``.

Commands are imported when they are run, after the OpenMP setting below: a core install has ``doctor`` without the ``train`` extra.
"""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "demo": ("fastpref.demo", "train a real model on real human preferences and show what changed"),
    "train": ("fastpref.train", "train your own model on your own pairs"),
    "lab": ("fastpref.lab", "small exact experiments: what each algorithm converges to, and how fast"),
    "doctor": ("fastpref.doctor", "versions, active backends, and why the others are not"),
}
"""Command -> the module whose ``main(argv) -> exit status`` runs it, and its line in the help."""


def usage() -> str:
    """The top-level help."""
    lines = [f"  {name:<8}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: fastpref COMMAND [options]", "", *lines, "", "fastpref COMMAND --help shows its options."]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 0 on success, 1 on a user's error, 2 on a wrong call."""
    # Shared cores: an OpenMP thread that spins while another process runs costs 10-40x. Read when torch is imported, so set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv and argv[0] == "--version":
        from . import __version__

        print(f"fastpref {__version__}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        from .errors import nearest

        problem = f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}\n\n" if argv else ""
        print(f"fastpref: {problem}{usage()}" if problem else usage(), file=sys.stderr)
        return 2
    from ._files import SaveError
    from .errors import UserError

    try:
        status = int(importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:]))
        sys.stdout.flush()
        return status
    except (UserError, SaveError) as error:
        print(f"fastpref {argv[0]}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output, `head` for instance, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\nfastpref {argv[0]}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
