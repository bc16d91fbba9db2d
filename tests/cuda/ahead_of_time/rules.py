"""What must hold of each kernel of ``csrc/cuda`` on every GPU, whatever was kept: edit this when a kernel comes or goes."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """What must hold of the kernels whose names (:func:`.compiling.readable`) match a pattern."""

    pattern: str
    """Of the whole name with its template arguments, such as ``row_stats<BFloat16, .*>``."""
    streams: bool = False
    """Whether it must read 16 bytes at a time, into registers or into shared memory."""
    writes: bool = False
    """Whether it must write 16 bytes at a time."""
    tensor_cores: bool = False
    """Whether it must multiply matrices."""
    in_flight: int | None = None
    """How many of its 16-byte loads a thread has issued before it waits for one, where that is known: for the table."""
    dynamic_shared: int = 0
    """Bytes of shared memory that its launch adds to those that the compiler knows."""
    most_registers: int = 255
    may_spill: bool = False


# The first that matches counts; a kernel that none matches is a complaint.
RULES: list[Rule] = []


def rule_for(name: str, rules: list[Rule]) -> Rule | None:
    """The rule of a kernel."""
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
