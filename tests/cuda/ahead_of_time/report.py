"""The table of the CUDA kernels: kept as JSON, shown as Markdown, judged by itself and against what was kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...kernels.ahead_of_time import tables
from ...kernels.ahead_of_time.tables import Resources, Table
from .rules import Rule, rule_for

KEPT = Path(__file__).parents[3] / "bench/cuda_ahead_of_time.json"
SHOWN = KEPT.with_suffix(".md")


def faults(rule: Rule | None, found: Resources) -> Iterator[str]:
    """What must not be, whatever was kept."""
    if rule is None:
        yield "has no rule in tests/cuda/ahead_of_time/rules.py"
        return
    if found["spilled_bytes"] and not rule.may_spill:
        yield f"spills {found['spilled_bytes']} bytes"
    if found["local"] and not rule.may_spill:
        yield f"has {found['local']} accesses of local memory"
    if rule.streams and not found["wide_loads"]:
        yield "has no 16-byte loads"
    if rule.writes and not found["wide_stores"]:
        yield "has no 16-byte stores"
    if rule.tensor_cores and not found["tensor_core"]:
        yield "has no tensor-core instructions"
    if found["registers"] > rule.most_registers:
        yield f"takes {found['registers']} registers, where {rule.most_registers} are the most"
    if not found["resident_blocks"]:
        yield "fits no multiprocessor"


def complaints(targets: Iterable[str], rules: list[Rule], found: Table, kept: Table | None) -> list[str]:
    """Everything wrong with a table of these targets; without a kept one, by itself alone."""
    wrong, targets = [], list(targets)
    if kept is not None and kept["nvcc"] != found["nvcc"]:
        return [f"{KEPT.name} was made with nvcc {kept['nvcc']}, this is {found['nvcc']}: make it again"]
    for name, per_target in found["kernels"].items():
        for target in targets:
            got = per_target[target]
            said = list(faults(rule_for(name, rules), got))
            if kept is not None:
                before = kept["kernels"].get(name, {}).get(target)
                said += tables.regressions(before, got) if before else [f"is not in {KEPT.name}: make it again"]
            wrong += [f"{name} on {target} {complaint}" for complaint in said]
    gone = [name for name in (kept or found)["kernels"] if name not in found["kernels"]]
    return wrong + [f"{name} is in {KEPT.name} and not in csrc/cuda: make it again" for name in gone]


def load() -> Table:
    """The kept table."""
    return json.loads(KEPT.read_text())


def save(table: Table) -> None:
    """Keep and show it."""
    KEPT.write_text(tables.as_json("nvcc", table))
    SHOWN.write_text(as_markdown(table))


INTRODUCTION = """\
# What nvcc makes of the CUDA kernels

Every kernel of `csrc/cuda`, compiled ahead of time by nvcc {nvcc} with the flags of `setup.py` for GPUs that were not there. Nothing here was
executed or timed. Written by `python -m tests.cuda.ahead_of_time`; `--check` compiles again and fails where something got worse or breaks a rule of
`tests/cuda/ahead_of_time/rules.py`, and the tests do so for sm_90.

*threads*: the most of a block. *regs*: registers per thread. *spill*: bytes of stack or spilled registers per thread; *local*: instructions that
access them. *shared*: bytes per block. *blocks*, *warps*: how many of them registers, shared memory and the hardware allow on a multiprocessor at
the same time. *16 B*: load and store instructions of 16 bytes per thread, copies into shared memory included; *narrow*: loads of less. *matrix*:
tensor-core instructions. All counts are of instructions in the code. *in flight*: KiB that a multiprocessor can be waiting for, where it is known how
many 16-byte loads a thread issues before it waits.
"""

_COLUMNS = {
    "threads": "threads",
    "regs": "registers",
    "spill": "spilled_bytes",
    "local": "local",
    "shared": "shared",
    "blocks": "resident_blocks",
    "warps": "resident_warps",
    "16 B loads": "wide_loads",
    "16 B stores": "wide_stores",
    "narrow": "narrow_loads",
    "matrix": "tensor_core",
    "in flight": "in_flight",
}


def as_markdown(table: Table) -> str:
    """A section for each kernel, with a line for each of its instances and targets."""
    parts = [INTRODUCTION.format(nvcc=table["nvcc"])]
    families: dict[str, dict[str, dict[str, Resources]]] = {}
    for name, per_target in table["kernels"].items():
        families.setdefault(name.split("<")[0], {})[name] = per_target
    for family, members in families.items():
        lines = [f"| instance | target | {' | '.join(_COLUMNS)} |", "|" + "---|" * (len(_COLUMNS) + 2)]
        for name, per_target in members.items():
            instance = f"`{name.removeprefix(family)[1:-1]}`" if name != family else ""
            for target, what in per_target.items():
                cells = ["" if what[key] is None else str(what[key]) for key in _COLUMNS.values()]
                lines.append(f"| {instance} | {target} | {' | '.join(cells)} |")
        parts.append(f"\n## {family}\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)
