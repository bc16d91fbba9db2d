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


def require_number(name: str, value: float) -> None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, found {value!r} ({type(value).__name__})")
    if not abs(value) < float("inf"):
        raise ValueError(f"{name}: expected a finite number, found {value!r}")


def require_positive(name: str, value: float) -> None:
    """A finite number above 0."""
    require_number(name, value)
    if not value > 0.0:
        raise ValueError(f"{name}: expected a finite number above 0, found {value!r}")


def require_at_least(name: str, value: float, least: float) -> None:
    """A finite number, ``least`` or above."""
    require_number(name, value)
    if value < least:
        raise ValueError(f"{name}: expected a finite number, {least} or above, found {value!r}")


def require_between(name: str, value: float, low: float, high: float, *, ends: str = "[]") -> None:
    """A number in the interval; ``ends`` says which ends belong to it: ``"[]"``, ``"[)"``, ``"(]"`` or ``"()"``."""
    require_number(name, value)
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"{name}: expected a number in {ends[0]}{low}, {high}{ends[1]}, found {value!r}")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """One of the names; the message suggests the nearest."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, found {value!r}{nearest(str(value), known)}")


def require_flag(name: str, value: object) -> None:
    """``True`` or ``False``."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, found {value!r} ({type(value).__name__})")
