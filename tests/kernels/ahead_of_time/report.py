"""The table of compiled kernels: kept as JSON, shown as Markdown, judged by itself and against what was kept.

A table is ``{"triton": version, "kernels": {case: {target: resources}}}``, see ``resources.read``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import tables
from .cases import CASES, Case
from .resources import LIMITS
from .tables import Resources, Table

KEPT = Path(__file__).parents[3] / "bench/ahead_of_time.json"
SHOWN = KEPT.with_suffix(".md")


def faults(case: Case, target: str, found: Resources) -> Iterator[str]:
    """What must not be, whatever was kept."""
    if found["spilled_bytes"] and not case.may_spill:
        yield f"spills {found['spilled_bytes']} bytes"
    if case.streams and target not in case.narrow_on and not found["wide_loads"]:
        yield "has no 16-byte loads"
    if case.tensor_cores and not found["tensor_core"]:
        yield "has no tensor-core instructions"
    if case.loops_alone and found.get("loop_communication"):
        yield f"communicates in its loop ({found['loop_communication']} shuffles or barriers)"
    if target.startswith("sm_") and found["registers"] > case.most_registers:
        yield f"takes {found['registers']} registers, where {case.most_registers} are the most"
    if not found["resident_warps"]:
        yield "fits no multiprocessor"


def complaints(cases: Iterable[Case], targets: Iterable[str], found: Table, kept: Table | None) -> list[str]:
    """Everything wrong with a table of these cases and targets; without a kept one, by itself alone."""
    wrong = []
    targets = list(targets)
    if kept is not None and kept["triton"] != found["triton"]:
        return [f"{KEPT.name} was made with triton {kept['triton']}, this is {found['triton']}: make it again"]
    for case in cases:
        for target in targets:
            got = found["kernels"][case.name][target]
            said = list(faults(case, target, got))
            if kept is not None:
                before = kept["kernels"].get(case.name, {}).get(target)
                said += tables.regressions(before, got) if before else [f"is not in {KEPT.name}: make it again"]
            wrong += [f"{case.name} on {target} {complaint}" for complaint in said]
    return wrong


def updated(part: Table) -> Table:
    """The kept table with what was compiled again in place of what it had, and without cases that are no more."""
    kept = load()
    if kept["triton"] != part["triton"]:
        raise ValueError(
            f"{KEPT.name} was made with triton {kept['triton']}, this is {part['triton']}: make all of it again"
        )
    merged = {}
    for case in CASES:
        old, new = (x["kernels"].get(case.name, {}) for x in (kept, part))
        merged[case.name] = {target: (old | new)[target] for target in LIMITS if target in old or target in new}
    return {"triton": part["triton"], "kernels": {name: what for name, what in merged.items() if what}}


def load() -> Table:
    return json.loads(KEPT.read_text())


def save(table: Table) -> None:
    KEPT.write_text(as_json(table))
    SHOWN.write_text(as_markdown(table))


def as_json(table: Table) -> str:
    return tables.as_json("triton", table)


INTRODUCTION = """\
# What the compilers make of the kernels

Every kernel in its default configuration and its main variants, compiled ahead of time by triton {triton} for GPUs that were not there.
Nothing here was executed or timed. Written by `python -m tests.kernels.ahead_of_time`; `--check` compiles again and fails where something got
worse, and the tests do so for the main variants on one GPU of each maker, sm_90 and gfx942 (`--main`).

*regs*: registers per thread (AMD: vector registers, accumulators included). *spill*: bytes of them in memory, per thread. *shared*: bytes per
program. *resident*: warps per multiprocessor that registers, shared memory and the hardware allow at the same time, each of 32 threads on
NVIDIA and 64 on AMD. *16 B*: load and store instructions of 16 bytes or more per thread; *narrow*: loads of less (the values of a row: target,
coefficients, state). *matrix*: tensor-core instructions. All counts are of instructions in the code. *in flight*: KiB that a multiprocessor can
be waiting for, if every resident thread has issued all its 16-byte loads.
"""


def as_markdown(table: Table) -> str:
    parts = [INTRODUCTION.format(triton=table["triton"])]
    parts += [f"\n## {name}\n\n{_rows(per_target)}" for name, per_target in table["kernels"].items()]
    return "".join(parts)


_COLUMNS = {
    "warps": "warps",
    "regs": "registers",
    "spill": "spilled_bytes",
    "shared": "shared",
    "resident": "resident_warps",
    "16 B loads": "wide_loads",
    "16 B stores": "wide_stores",
    "narrow": "narrow_loads",
    "matrix": "tensor_core",
}


def _rows(per_target: dict[str, Resources]) -> str:
    """A table of targets; a configuration that all have in common stands above it."""
    configurations = {what["configuration"] for what in per_target.values()}
    shared = len(configurations) == 1
    head = ["target", *_COLUMNS, "in flight", *([] if shared else ["configuration"])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for target, what in per_target.items():
        own = [] if shared else [f"`{what['configuration']}`"]
        cells = [target, *(str(what[name]) for name in _COLUMNS.values()), _in_flight(target, what), *own]
        lines.append(f"| {' | '.join(cells)} |")
    above = f"`{configurations.pop()}`\n\n" if shared else ""
    return above + "\n".join(lines) + "\n"


def _in_flight(target: str, what: Resources) -> str:
    if what["tensor_core"]:
        return ""  # its loads are copies to shared memory, as many as there are stages
    threads = what["resident_warps"] * (64 if target.startswith("gfx") else 32)
    return str(threads * what["wide_loads"] * 16 // 1024)
