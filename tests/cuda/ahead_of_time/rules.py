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
RULES: list[Rule] = [
    Rule(r"row_stats<.*>", streams=True, in_flight=4),
    Rule(r"row_grad<.*>", streams=True, writes=True),
    Rule(r"row_cross<.*>", streams=True, in_flight=4),  # two of each side
    Rule(r"row_kl_grad<.*>", streams=True, writes=True),
    Rule(r"keep_state"),  # a few numbers per row
    Rule(r"preference_forward<.*>", streams=True, in_flight=4),
    Rule(r"objective_\w+(<.*>)?"),
    # The last argument says whether rows are aligned. Four stages of 24 KB, or three and as much for more statistics: two blocks fit no
    # multiprocessor, so that registers may be used up.
    Rule(r"linear_stats_kernel<.*, true>", streams=True, tensor_cores=True, dynamic_shared=4 * 24 * 1024),
    Rule(r"linear_stats_kernel<.*, false>", tensor_cores=True, dynamic_shared=4 * 24 * 1024),
    Rule(r"merge_parts_kernel<.*>"),
    Rule(r"tile_grad_kernel<.*, true>", streams=True, writes=True),
    Rule(r"tile_grad_kernel<.*, false>"),
    Rule(r"scale_rows_kernel<.*, true>", streams=True, writes=True),
    Rule(r"scale_rows_kernel<.*, false>"),
]


def rule_for(name: str, rules: list[Rule]) -> Rule | None:
    """The rule of a kernel."""
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
