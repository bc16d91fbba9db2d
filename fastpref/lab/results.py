"""What an experiment hands over: tables of measured beside expected numbers, and the curves of its pictures. No numerics, no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt


@dataclass(frozen=True)
class Cell:
    """One number and what it should be.

    Attributes:
        measured: as printed.
        expected: as printed; empty for a cell without a number to compare with.
        agrees: None where a random number is shown beside a typical one and nothing is claimed.
    """

    measured: str
    expected: str = ""
    agrees: bool | None = None


def digits(measured: float | None, expected: str) -> Cell:
    """A deterministic number that must round to ``expected``, as ``"0.5216"``, ``"129"`` or ``"6.6e-3"``; None never does."""
    if measured is None:
        return Cell("none", expected, False)
    mantissa, _, exponent = expected.partition("e")
    places, scale = len(mantissa.partition(".")[2]), 10.0 ** int(exponent or 0)
    shown = f"{measured / scale:.{places}f}" + (f"e{exponent}" if exponent else "")
    half = 0.5 * 10.0**-places
    return Cell(shown, expected, abs(measured / scale - float(mantissa)) <= half * (1 + 1e-9))


def below(measured: float, bound: float) -> Cell:
    """An error that must be smaller than ``bound``."""
    return Cell(f"{measured:.0e}", f"< {bound:.0e}", bool(measured < bound))


def typical(measured: float, expected: str) -> Cell:
    """A seeded number beside one measured with other random numbers: shown, not judged."""
    places = len(expected.partition(".")[2])
    return Cell(f"{measured:.{places}f}", expected)


def claim(measured: str, expected: str, holds: bool) -> Cell:
    """A statement, an ordering for instance, that must hold."""
    return Cell(measured, expected, bool(holds))


@dataclass(frozen=True)
class Table:
    """Rows of cells. ``columns`` has the heading of the label column first; ``notes`` are the caveats printed underneath."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Series:
    """One curve: ``x [m]``, ``y [m]``, a matplotlib line style."""

    label: str
    x: npt.ArrayLike
    y: npt.ArrayLike
    style: str = "-"


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """Panels side by side, saved as ``<name>.png``, with the caveat underneath."""

    name: str
    panels: Sequence[Panel]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A section of the lab."""

    name: str
    title: str
    tables: Sequence[Table]
    pictures: Sequence[Picture]

    @property
    def disagreements(self) -> list[str]:
        """``table, row, column`` of each number that is not as expected."""
        return [
            f"{table.title}: {label}, {column}"
            for table in self.tables
            for label, cells in table.rows
            for column, cell in zip(table.columns[1:], cells, strict=True)
            if cell.agrees is False
        ]
