"""A model, not a measurement: predicted time and memory of a DPO step's head on GPUs, ours beside others', all by the same rules.

    python bench/roofline.py [--devices H100 ...] [--rows 2048 8192 32768] [--precomputed-reference] [--json FILE] [--markdown FILE]

A step is forward and backward of the loss for policy and reference in bf16, full fine-tuning, T completion tokens in pairs of 2048; gradients to hidden
states and head. ``roofline_model`` has the rules and, in one table, every assumed efficiency; ``roofline_devices`` the data-sheet figures;
``roofline_ours``, ``roofline_others`` and ``roofline_given`` what each contestant computes and moves. FLOPs, bytes and scratch of ours are
the planner's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import roofline_given
from roofline_devices import DEVICES, MEMORY_LATENCY, Device
from roofline_model import Assumptions, Step
from roofline_others import OTHERS, filtered
from roofline_ours import Head, chunked, fused

from fastpref.planner import DESIGNS

LABEL = "A model, not a measurement: nothing in this table was run on a GPU."

HEADS = {
    "SmolLM2-135M": (576, 49152),
    "Qwen3-0.6B": (1024, 151936),
    "Llama-3.2-1B": (2048, 128256),
    "Llama-3.1-8B": (4096, 128256),
    "Qwen3-14B": (5120, 151936),
}
"""Model -> H, V."""

GEMM_EFFICIENCIES = (0.5, 0.6, 0.7, 0.8, 0.9)
TILE_EFFICIENCIES = (0.6, 0.7, 0.8, 0.9, 1.0)

Form = Callable[[Head], Step]


def contestants(a: Assumptions) -> dict[str, Form]:
    """Every way from hidden states to the gradients, ours first."""
    ours = {f"fused {design}": partial(fused, design=design) for design in DESIGNS}
    ours |= {f"chunked {design}": partial(chunked, design=design) for design in DESIGNS}
    return {**ours, **OTHERS, "CCE filtered": partial(filtered, a=a)}


def heads(rows: list[int], precomputed: bool) -> list[Head]:
    return [Head(name, *shape, t, precomputed=precomputed) for name, shape in HEADS.items() for t in rows]


def steps(head: Head, forms: dict[str, Form]) -> dict[str, Step | str]:
    """Every contestant's step, or why it has none."""
    found: dict[str, Step | str] = {}
    for name, form in forms.items():
        try:
            found[name] = form(head)
        except ValueError as error:
            found[name] = str(error)
    return found


def seconds(step: Step | str, device: Device, a: Assumptions) -> float | None:
    """``None`` where there is no step, or it does not fit into the device's memory."""
    return None if isinstance(step, str) or not step.fits(device) else step.seconds(device, a)


def ranking(head: Head, device: Device, a: Assumptions) -> list[tuple[str, float]]:
    """``(contestant, seconds)``, the fastest first."""
    found = {name: seconds(step, device, a) for name, step in steps(head, contestants(a)).items()}
    return sorted(((n, s) for n, s in found.items() if s is not None), key=lambda pair: pair[1])


# --- tables -------------------------------------------------------------------------------------------------------------------

Table = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:.3g}"


def time_tables(devices: list[Device], rows: list[Head], a: Assumptions) -> list[Table]:
    forms, tables = contestants(a), []
    made = {head: steps(head, forms) for head in rows}
    for device in devices:
        lines = [[head.name, str(head.rows), *(milliseconds(seconds(s, device, a)) for s in made[head].values())] for head in rows]  # fmt: skip
        tables.append((f"Hidden states given: milliseconds on {device.name}", ["head", "T", *forms], lines))
    return tables


def memory_table(rows: list[Head], a: Assumptions) -> Table:
    forms = contestants(a)
    lines = []
    for head in rows:
        found = steps(head, forms).values()
        lines.append([head.name, str(head.rows), *("-" if isinstance(s, str) else f"{s.peak_bytes / 2**30:.2f}" for s in found)])  # fmt: skip
    return "Hidden states given: GiB above inputs and gradients", ["head", "T", *forms], lines


def given_table(devices: list[Device], rows: list[Head], a: Assumptions) -> Table:
    forms, lines = roofline_given.FORMS, []
    for name, form in forms.items():
        step = form(rows[0])
        line = [name, f"{step.nbytes / rows[0].logits:g}", f"{step.peak_bytes / rows[0].logits:.2f}"]
        for head in rows:
            line += [milliseconds(seconds(form(head), device, a)) for device in devices]
        lines.append(line)
    columns = [f"V={head.vocab}, {device.name}" for head in rows for device in devices]
    title = f"Logits given, T={rows[0].rows}: bytes moved and allocated per logit, milliseconds"
    return title, ["", "moved", "allocated", *columns], lines


def sensitivity_tables(device: Device, rows: list[Head], a: Assumptions) -> list[Table]:
    """The three fastest as the efficiency of library GEMMs, and that of tile kernels beside it, is varied."""
    tables = []
    cases: list[tuple[str, tuple[float, ...], Callable[[float], Assumptions]]] = [
        ("library GEMMs, as a share of the peak", GEMM_EFFICIENCIES, a.with_gemm),
        ("tile kernels, relative to library GEMMs", TILE_EFFICIENCIES, a.with_tile),
    ]
    for what, values, assumed in cases:
        lines = []
        for head in rows:
            best = [ranking(head, device, assumed(value))[:3] for value in values]
            lines.append([head.name, *(", ".join(f"{n} {milliseconds(s)}" for n, s in found) for found in best)])
        header = ["head", *(f"{value:g}" for value in values)]
        tables.append((f"Sensitivity on {device.name}, T={rows[0].rows}: the fastest by efficiency of {what}", header, lines))  # fmt: skip
    return tables


def assumption_table(a: Assumptions) -> Table:
    texts = dict(line.strip().split(": ", 1) for line in _attribute_lines())
    lines = [[field.name, f"{getattr(a, field.name):g}", texts[field.name]] for field in fields(a)]
    lines.append(["memory latency", f"{1e9 * MEMORY_LATENCY:.0f} ns", "that resident warps have to cover with loads"])
    return "Assumptions", ["", "value", "what"], lines


def _attribute_lines() -> list[str]:
    """The attributes in the docstring of ``Assumptions``."""
    text = (Assumptions.__doc__ or "").split("Attributes:")[1].strip()
    return [line for line in text.splitlines() if line.strip()]


def device_table(devices: list[Device]) -> Table:
    header = ["", "bf16 TFLOP/s", "fp32 TFLOP/s", "TB/s", "cache MB", "multiprocessors", "GB", "source"]
    lines = [
        [d.name, f"{d.tensor_flops / 1e12:g}", f"{d.vector_flops / 1e12:g}", f"{d.bandwidth / 1e12:g}", f"{d.l2_bytes / 1e6:g}",
         str(d.multiprocessors), f"{d.memory_bytes / 1e9:g}", d.source]
        for d in devices
    ]  # fmt: skip
    return "Devices (data sheets, dense rates)", header, lines


def note_table(a: Assumptions) -> Table:
    head = Head("", 1024, 151936, 8192)
    notes = [[n, s.note] for n, s in steps(head, contestants(a)).items() if isinstance(s, Step) and s.note]
    return "What a row leaves out or gives up", ["", "note"], notes


def markdown(tables: list[Table]) -> str:
    parts = [
        f"**{LABEL}**",
        "Written by `python bench/roofline.py --markdown bench/roofline.md`; the rules are in its modules.",
        GUIDE,
    ]
    for title, header, lines in tables:
        parts.append(f"## {title}")
        parts.append("\n".join(["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *lines)]))
    return "\n\n".join(parts) + "\n"


GUIDE = (
    "`fused` and `chunked` are ours: plans D0 to D3 with a tile kernel that keeps logits in registers, or with chunks of float32 logits between library "
    "GEMMs and row kernels. `-`: no such plan within 8 GiB of scratch, or it does not fit into the GPU's memory. T counts completion tokens: "
    "prompt and padding rows, which ours leaves out and most others run, come on top for those. Others are given the benefit of every doubt: "
    "one pass over the logits per fused kernel, no host time, library GEMMs where they call the library."
)


def plain(tables: list[Table]) -> str:
    text = [LABEL]
    for title, header, lines in tables:
        widths = [max(len(row[i]) for row in (header, *lines)) for i in range(len(header))]
        text += ["", title, *("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in (header, *lines))]  # fmt: skip
    return "\n".join(text)


def numbers(devices: list[Device], rows: list[Head], a: Assumptions) -> list[dict[str, Any]]:
    """For ``--json``: every contestant on every head."""
    found = []
    for head in rows:
        for name, step in steps(head, contestants(a)).items():
            line: dict[str, Any] = {"head": head.name, "hidden": head.hidden, "vocab": head.vocab, "rows": head.rows, "contestant": name}  # fmt: skip
            if isinstance(step, str):
                found.append({**line, "left_out": step})
                continue
            line |= {"flops": step.flops, "bytes": step.nbytes, "peak_bytes": step.peak_bytes}
            found.append({**line, "seconds": {device.name: seconds(step, device, a) for device in devices}})
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES), choices=list(DEVICES))
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 8192, 32768], help="T, multiples of 2048")
    parser.add_argument("--precomputed-reference", action="store_true", help="the reference's log-probs are given")
    for field in fields(Assumptions):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=field.default, help="an assumption; default %(default)s")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    args = parser.parse_args(argv)
    if any(rows <= 0 or rows % 2048 for rows in args.rows):
        parser.error(f"--rows: expected multiples of 2048, found {args.rows}")
    a = Assumptions(**{field.name: getattr(args, field.name) for field in fields(Assumptions)})
    devices, all_heads = [DEVICES[name] for name in args.devices], heads(args.rows, args.precomputed_reference)
    middle = args.rows[len(args.rows) // 2]
    of_middle = [head for head in all_heads if head.rows == middle]
    tables = [
        *time_tables(devices, all_heads, a),
        memory_table(all_heads, a),
        given_table(devices, [head for head in of_middle if head.name in ("SmolLM2-135M", "Llama-3.1-8B")], a),
        *sensitivity_tables(devices[0], of_middle, a),
        assumption_table(a),
        device_table(devices),
        note_table(a),
    ]
    print(plain(tables))
    if args.json:
        content = {"label": LABEL, "assumptions": asdict(a), "numbers": numbers(devices, all_heads, a)}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
