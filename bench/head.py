"""DPO from hidden states: this package's plans against full logits, torch.compile, Liger and TRL; time, memory and error in one run.

    python bench/head.py [--shapes 576x49152 1024x151936 2048x128256 --rows 512 2048 --sequences 4 --dtypes float32 bfloat16]
                         [--contestants NAME ...] [--prompt-share 0.5] [--frozen-head] [--precomputed-reference] [--shared-head]
                         [--repeats 5] [--json FILE] [--markdown] [--check]

Time is forward + backward, gradients to hidden and weight, the reference online unless a scenario says otherwise; every contestant
runs once per round, in turn, and ratios are medians of the ratios within a round. A contestant whose library is missing, which cannot run the
scenario or would not fit in memory is left out, with the reason. Liger and TRL are optional: ``pip install --no-deps liger-kernel==0.8.5`` and
``pip install 'fastpref[trl]'``.

``ratio``
    a contestant's time over that of ``fastpref`` (of the table's first line where that was not asked for); above 1: ours is faster.
``x floor``
    time over that of the form's GEMM FLOPs (of the plan, for ours) at the rate torch.mm reaches on the three shapes of the head in the same
    rounds. Below 1: faster than the library's GEMMs could be.
``peak``
    growth of the process's resident set during one step, above inputs and gradients, in a process of its own. A contestant that holds
    its peak before the gradients exist is flattered by this; ``growth`` has the gradients in it. Both are without the compiler's memory.
``ratio error``, ``grad error``
    against float64 of the same operands, on --accuracy-rows rows: nats of a sequence's log-ratio; relative error of the gradients.
    The title has those of plain torch in the same dtype (``naive``).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from head_contestants import CONTESTANTS, OURS, RIVALS, Contestant, Problem, Result, Scenario
from head_oracle import Errors, errors, truth
from measure import (
    Timings,
    available_bytes,
    first_line,
    gemm_flops,
    head_gemms,
    in_own_process,
    interleaved,
    peak_resident,
    print_checks,
    resident_bytes,
    trim,
    write_json,
)

GEMM = "torch.mm"
TORCH = "naive"
"""Whose errors are plain torch's own in a dtype."""
ACCEPTED_FLOOR = {"float32": 1.10, "bfloat16": 0.90}
WARMED = [name for name in CONTESTANTS if name.startswith("fastpref-d")]
"""Every plan of ours: run on a tiny problem before a peak is taken."""

PEAK_NOISE_BYTES = 8 << 20
"""What a resident set grows by on its own: stacks of threads, generated code, whole pages."""

Form = Callable[[Problem], Result]


@dataclass(frozen=True)
class Row:
    """One line of a table: a contestant on one problem."""

    contestant: str
    seconds: float
    ratio: float
    floor: float
    plan: str | None
    limit_bytes: int | None
    peak_bytes: int | None
    growth_bytes: int | None
    log_ratio_error: float
    gradient_error: float


def scenario_of(args: argparse.Namespace) -> Scenario:
    return Scenario(args.prompt_share, args.frozen_head, args.precomputed_reference, args.shared_head)


def step(form: Form, p: Problem) -> Result:
    """One forward + backward; gradients of an earlier one are dropped by the caller."""
    result = form(p)
    result.loss.backward()
    return result


def runnable(
    names: list[str], p: Problem, scenario: Scenario, available_on: Callable[[], int] | None = None
) -> tuple[dict[str, Form], dict[str, Result], dict[str, str]]:
    """``(forms, results, skipped)``: what runs, the result of its first run without its graph, and why the rest does not.

    ``available_on``: bytes that a device has; ``None``: the host.
    """
    forms: dict[str, Form] = {}
    results: dict[str, Result] = {}
    skipped: dict[str, str] = {}
    for name in names:
        contestant = CONTESTANTS[name]
        needed, available = contestant.needed_bytes(p), (available_on or available_bytes)()
        if needed > available:
            skipped[name] = f"needs about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB available"
            continue
        p.zero_grad()
        try:
            form = contestant.load(scenario, p.hidden.dtype)
            result = step(form, p)
        except Exception as error:  # whatever a library or a plan refuses with: a line of the report
            skipped[name] = first_line(error)
            continue
        forms[name], results[name] = form, Result(result.loss.detach(), result.log_ratios, result.plan)
    return forms, results, skipped


def accuracy(names: list[str], p: Problem, scenario: Scenario) -> dict[str, Errors]:
    """Errors of each on a problem of few rows. Freshly loaded: a compiled form must not meet two shapes."""
    torch._dynamo.reset()
    exact, found = truth(p), {}
    for name in names:
        p.zero_grad()
        found[name] = errors(p, step(CONTESTANTS[name].load(scenario, p.hidden.dtype), p), exact)
    p.zero_grad()
    return found


def growth(args: argparse.Namespace, contestant: Contestant) -> int:
    """Bytes that the resident set of this process grows by in one step, after a warm-up of the libraries on a tiny problem."""
    scenario, dtype = scenario_of(args), getattr(torch, args.dtypes[0])
    form = contestant.load(scenario, dtype)
    (hidden, vocab), rows = args.shapes[0], args.rows[0]
    # At this size the planner may choose another plan than at that one, whose first use imports what the other's does not (100 MiB).
    tiny = Problem.make(4 * args.sequences, args.sequences, hidden, 512, dtype, scenario)
    for warm in (form, *runnable(WARMED, tiny, scenario)[0].values()):
        step(warm, tiny)
    p = Problem.make(rows, args.sequences, hidden, vocab, dtype, scenario)
    if contestant.compiled:  # without what the compiler itself takes; such a form keeps nothing between calls
        step(form, p)
        p.zero_grad()
    trim()
    before = resident_bytes()
    return peak_resident(lambda: step(form, p)) - before


def peaks(names: list[str], args: argparse.Namespace, rows: int, shape: tuple[int, int], dtype: str) -> dict[str, int]:
    """:func:`growth` of each, in a fresh process."""
    scenario = [f"--prompt-share={args.prompt_share}"]
    scenario += [
        f"--{k.replace('_', '-')}" for k in ("frozen_head", "precomputed_reference", "shared_head") if getattr(args, k)
    ]
    problem = [
        f"--shapes={shape[0]}x{shape[1]}",
        f"--rows={rows}",
        f"--sequences={args.sequences}",
        f"--dtypes={dtype}",
    ]
    return {name: in_own_process(__file__, [*problem, *scenario, f"--growth-of={name}"]) for name in names}


def rows_of(
    p: Problem, times: Timings, results: dict[str, Result], errs: dict[str, Errors], grown: dict[str, int]
) -> list[Row]:
    """The lines of one problem's table."""
    ours, found = next(iter(results), ""), []
    work = gemm_flops(*p.hidden.shape, p.weight.shape[0])
    for name, result in results.items():
        contestant, plan = CONTESTANTS[name], result.plan
        flops = contestant.flops(p) if plan is None else plan.flops
        found.append(
            Row(
                contestant=name,
                seconds=times.median(name),
                ratio=times.ratio(name, ours),
                floor=times.ratio(name, GEMM) * work / flops,
                plan=None if plan is None else plan.design,
                limit_bytes=None if plan is None else max(contestant.budget_bytes or 0, plan.scratch_bytes),
                peak_bytes=None if name not in grown else max(0, grown[name] - p.gradient_bytes),
                growth_bytes=grown.get(name),
                log_ratio_error=errs[name].log_ratio,
                gradient_error=errs[name].gradient,
            )
        )
    return found


def mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def print_table(title: str, rows: list[Row], skipped: dict[str, str]) -> None:
    print(f"\n{title}")
    print(
        f"{'':<16}{'plan':>5}{'median ms':>11}{'ratio':>8}{'x floor':>9}{'peak MiB':>10}{'growth':>8}{'ratio error':>13}{'grad error':>12}"
    )
    for row in rows:
        print(
            f"{row.contestant:<16}{row.plan or '-':>5}{1e3 * row.seconds:>11.1f}{row.ratio:>7.2f}x{row.floor:>9.2f}"
            f"{mebibytes(row.peak_bytes):>10}{mebibytes(row.growth_bytes):>8}{row.log_ratio_error:>13.1e}{row.gradient_error:>12.1e}"
        )
    for name, reason in skipped.items():
        print(f"{name:<16}left out: {reason}")


def print_markdown(title: str, rows: list[Row]) -> None:
    """The table as a README has it."""
    print(f"\n{title}\n")
    print("| | time | ours is | GEMM floor | memory | log-ratio error | gradient error |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        name = row.contestant if row.plan is None else f"{row.contestant} ({row.plan})"
        speed = (
            ""
            if row.contestant in OURS[:1]
            else f"{row.ratio:.2f}x faster"
            if row.ratio >= 1
            else f"{1 / row.ratio:.2f}x slower"
        )
        memory = "" if row.peak_bytes is None else f"{mebibytes(row.peak_bytes)} MiB"
        print(
            f"| {name} | {1e3 * row.seconds:.0f} ms | {speed} | {row.floor:.2f} | {memory} | {row.log_ratio_error:.1e} | {row.gradient_error:.1e} |"
        )


def checks(tables: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """Every acceptance threshold that these tables can answer."""
    found = []
    for table in tables:
        what, rows = table["problem"], {row["contestant"]: row for row in table["rows"]}
        for name in OURS:
            if name in table["skipped"]:
                found.append((f"{what}: {name} was left out: {table['skipped'][name]}", False))
            if name not in rows:
                continue
            ours, most = rows[name], ACCEPTED_FLOOR[table["dtype"]]
            found.append((f"{what}: {name} {ours['floor']:.2f}x the GEMM floor <= {most:.2f}x", ours["floor"] <= most))
            for rival in RIVALS:
                if rival in rows:
                    ratio = table["ratios"][name][rival]
                    found.append((f"{what}: {name} {ratio:.2f}x as fast as {rival} > 1x", ratio > 1))
            if ours["peak_bytes"] is not None:
                limit = ours["limit_bytes"] + PEAK_NOISE_BYTES
                text = f"{what}: {name} peak {mebibytes(ours['peak_bytes'])} MiB <= {mebibytes(limit)} MiB (budget and noise)"
                found.append((text, ours["peak_bytes"] <= limit))
    return found


def measure(args: argparse.Namespace, rows: int, shape: tuple[int, int], dtype: str) -> dict[str, Any]:
    """One problem: prints its table, returns it for ``--json`` and ``--check``."""
    torch._dynamo.reset()
    scenario = scenario_of(args)
    p = Problem.make(rows, args.sequences, *shape, getattr(torch, dtype), scenario)
    forms, results, skipped = runnable(args.contestants, p, scenario)
    variants: dict[str, Callable[[], object]] = {GEMM: head_gemms(p.hidden, p.weight)}
    variants[GEMM]()
    variants |= {name: lambda form=form: step(form, p) for name, form in forms.items()}
    times = interleaved(variants, args.repeats, warmups=0, before=lambda _: p.zero_grad())
    p.zero_grad()
    variants.clear()
    errs = accuracy([*forms, *({TORCH} - set(forms))], p.last_rows(args.accuracy_rows), scenario)
    rate = gemm_flops(rows, *shape) / times.median(GEMM)
    problem = f"T={rows} in {args.sequences} sequences, H={shape[0]}, V={shape[1]}, {dtype}"
    own = f"torch's own errors {errs[TORCH].log_ratio:.1e} and {errs[TORCH].gradient:.1e}"
    title = f"{problem}, torch.mm {rate / 1e9:.0f} GFLOP/s, {own}"
    grown = {} if args.no_memory else peaks(list(forms), args, rows, shape, dtype)
    table = rows_of(p, times, results, errs, grown)
    print_table(title, table, skipped)
    if args.markdown:
        print_markdown(title, table)
    return {
        "problem": problem,
        "rows_total": rows,
        "hidden": shape[0],
        "vocab": shape[1],
        "dtype": dtype,
        "gemm_flops_per_second": rate,
        "torch_errors": asdict(errs[TORCH]),
        "rows": [asdict(row) for row in table],
        "ratios": {name: {other: times.ratio(other, name) for other in forms} for name in forms},
        "skipped": skipped,
    }


def shape_of(text: str) -> tuple[int, int]:
    """``HxV``."""
    hidden, vocab = text.split("x")
    return int(hidden), int(vocab)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = [(576, 49152), (1024, 151936), (2048, 128256)]
    parser.add_argument("--shapes", type=shape_of, nargs="+", default=shapes, metavar="HxV")
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048], help="T, multiples of --sequences")
    parser.add_argument("--sequences", type=int, default=4, help="even: chosen, then rejected, of equal length")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(ACCEPTED_FLOOR))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument(
        "--prompt-share", type=float, default=0.0, help="share of the tokens that is prompt, and ignored"
    )
    parser.add_argument("--frozen-head", action="store_true", help="no gradient to the weight")
    parser.add_argument("--precomputed-reference", action="store_true", help="the reference's log-probs are given")
    parser.add_argument("--shared-head", action="store_true", help="the reference uses the policy's weight")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--accuracy-rows", type=int, default=64, help="rows on which errors are measured")
    parser.add_argument("--no-memory", action="store_true", help="leave the peaks out: they take a process each")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--markdown", action="store_true", help="also print every table as the README has it")
    parser.add_argument(
        "--check", action="store_true", help="print which acceptance thresholds hold; exit 1 if not all do"
    )
    parser.add_argument("--growth-of", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.sequences % 2 or any(rows % args.sequences for rows in args.rows):
        parser.error("--rows: expected multiples of --sequences, and that even")
    if not 0 <= args.prompt_share < 1:
        parser.error(f"--prompt-share: expected a share in [0, 1), found {args.prompt_share}")
    if args.growth_of:
        print(growth(args, CONTESTANTS[args.growth_of]))
        return 0

    args.contestants = [name for name in CONTESTANTS if name in args.contestants]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {scenario_of(args)}")
    tables = [measure(args, rows, shape, dtype) for shape in args.shapes for rows in args.rows for dtype in args.dtypes]
    write_json(args.json, {"scenario": asdict(scenario_of(args)), "repeats": args.repeats, "tables": tables})
    return print_checks(checks(tables)) if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
