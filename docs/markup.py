"""Text of docstrings as markdown, and markdown tables; shared by the generated pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def inline(text: str) -> str:
    """ReST roles and double backticks as code."""
    return re.sub(r":(?:func|class|mod|data|meth|attr|exc):`~?", "`", text).replace("``", "`")


def code(text: str) -> str:
    """As code."""
    return f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the pipes of its cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def arguments(cls: type, heading: str = "Args:") -> dict[str, str]:
    """A docstring's arguments: what it says of each; several names before one colon share the text."""
    _, _, section = (inspect.getdoc(cls) or "").partition(f"{heading}\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if re.match(r" {4}\S", line):
            head, _, text = line.strip().partition(": ")
            names = head.rstrip(":").split(", ")
            found.update(dict.fromkeys(names, text))
        elif line.startswith("     "):
            found.update({name: f"{found[name]} {line.strip()}".strip() for name in names})
        elif line:
            break
    return found
