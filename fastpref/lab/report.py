"""An experiment as text: every cell ``measured | expected``, with a mark that says whether they agree."""

from __future__ import annotations

import textwrap

from .results import Cell, Experiment, Table

_WIDTH = 110
_MARKS = {True: "ok", False: "NO", None: "~"}


def render(experiment: Experiment) -> str:
    """The section's heading, tables and notes. The same on every terminal: ASCII, no colour, no line wrapped to its width."""
    heading = f"{experiment.name}: {experiment.title}"
    return "\n".join([heading, "=" * len(heading), *(render_table(table) for table in experiment.tables)])


def render_table(table: Table) -> str:
    """One table with its notes."""
    grid = [list(table.columns), *([label, *(_text(cell) for cell in cells)] for label, cells in table.rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = ["", *textwrap.wrap(f"{table.title}", _WIDTH)]
    lines += [
        "  " + "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid
    ]
    lines.insert(len(lines) - len(table.rows), "  " + "   ".join("-" * width for width in widths))
    for note in table.notes:
        lines += textwrap.wrap(note, _WIDTH - 4, initial_indent="  * ", subsequent_indent="    ")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    return f"{cell.measured} | {cell.expected} {_MARKS[cell.agrees]}" if cell.expected else cell.measured


def summary(experiments: list[Experiment], seconds: float) -> str:
    """How many numbers agree, and which do not."""
    cells = [cell for e in experiments for table in e.tables for _, row in table.rows for cell in row if cell.expected]
    counts = {state: sum(cell.agrees is state for cell in cells) for state in (True, False, None)}
    lines = [
        f"{counts[True]} numbers and orderings agree, {counts[False]} do not, {counts[None]} random ones are shown unjudged; {seconds:.0f} s"
    ]
    lines += [f"  does not agree: {name}" for e in experiments for name in e.disagreements]
    return "\n".join(lines)
