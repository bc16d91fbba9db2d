"""The output directory: there, writable, and one run's alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows: there a second run in the same directory is the user's to avoid
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Make the directory and hold it: the same command started twice would write one log and prune one set of checkpoints.

    The lock is the kernel's: it is gone with the process, however that ends.

    Raises:
        UserError: the directory cannot be made or written to, or another run holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"output {directory}: cannot be written: {error.strerror}") from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"output {directory}: another run is using it") from None
            except OSError:
                pass  # a file system without locks
        yield
    finally:
        os.close(lock)
