"""Tables of compiled kernels, whoever compiled them: how they are kept, and what in one is worse than in another.

A table is ``{compiler: version, "kernels": {kernel: {target: resources}}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Resources = dict[str, Any]
Table = dict[str, Any]

REGISTER_SLACK = 8  # one step of the allocator


def regressions(kept: Resources, found: Resources) -> Iterator[str]:
    """What got worse."""
    if found["spilled_bytes"] > kept["spilled_bytes"]:
        yield f"spills {found['spilled_bytes']} bytes, was {kept['spilled_bytes']}"
    if found["registers"] > kept["registers"] + REGISTER_SLACK:
        yield f"takes {found['registers']} registers, was {kept['registers']}"
    if found["resident_warps"] < kept["resident_warps"]:
        yield f"has {found['resident_warps']} warps resident, was {kept['resident_warps']}"
    for name in ("wide_loads", "wide_stores", "tensor_core"):
        if found[name] < kept[name]:
            yield f"has {found[name]} {name.replace('_', ' ')}, was {kept[name]}"
    if found["narrow_loads"] > kept["narrow_loads"]:
        yield f"has {found['narrow_loads']} narrow loads, was {kept['narrow_loads']}"


def as_json(compiler: str, table: Table) -> str:
    """One line per kernel and target, so that a change shows as itself."""
    kernels = []
    for name, per_target in table["kernels"].items():
        lines = ",\n".join(f"      {json.dumps(target)}: {json.dumps(what)}" for target, what in per_target.items())
        kernels.append(f"    {json.dumps(name)}: {{\n{lines}\n    }}")
    inside = "\n" + ",\n".join(kernels) + "\n  " if kernels else ""
    return f'{{\n  "{compiler}": {json.dumps(table[compiler])},\n  "kernels": {{{inside}}}\n}}\n'
