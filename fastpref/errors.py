"""The errors that a user sees, and the wording they share: which argument, what was found, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A message for the user of a command: printed without a traceback, exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing if no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def require_positive(name: str, value: float) -> None:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, found {value!r} ({type(value).__name__})")
    if not (0.0 < value < float("inf")):
        raise ValueError(f"{name}: expected a finite number above 0, found {value!r}")
