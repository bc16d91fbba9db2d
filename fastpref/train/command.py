"""``fastpref train``: the command line around :func:`fastpref.train.train`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence

from .._files import SaveError
from ..errors import UserError


def main(argv: Sequence[str]) -> int:
    """Parse the options, train, and say where the result is.

    Returns:
        The exit status: 0; 1 for an error, which is printed; 128 + the signal's number after SIGINT or SIGTERM.
    """
    from .run import require_extra

    try:
        require_extra()
        from .config import parse
        from .run import train

        config = parse(argv)
        with messages():
            result = train(config)
    except (UserError, SaveError) as error:
        print(f"fastpref train: error: {error}", file=sys.stderr)
        return 1
    if result.interrupted is not None:
        kept = (
            f"{result.checkpoint} is complete; the same command continues from it"
            if result.checkpoint
            else "nothing to save yet"
        )
        print(f"fastpref train: stopped by {result.interrupted.name} after step {result.step}: {kept}", file=sys.stderr)
        return 128 + result.interrupted
    print(f"trained {result.step} steps; the model is in {result.checkpoint}")
    return 0


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        prefix = "note: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"{prefix}{record.getMessage()}", file=sys.stderr)


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """While entered, shows the package's messages on stderr, above the progress bar; warnings as notes."""
    logger, handler = logging.getLogger("fastpref"), _Lines()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
