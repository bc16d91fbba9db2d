"""DPO on a GPU, from hidden states and from given logits: this package against plain PyTorch, torch.compile, Liger and TRL, in one run.

    python bench/on_gpu.py [--shapes 1024x151936 2048x128256 4096x128256 --rows 2048 8192 --sequences 4] [--dtypes bfloat16]
                           [--contestants NAME ...] [--given-contestants NAME ...] [--device cuda] [--repeats 15] [--json FILE]

Times are forward + backward until the device is done, medians over rounds in which every contestant runs once, in turn; ``ratio`` is the median of
the ratios within a round, above 1: ours is faster. ``x floor`` is time over that of the form's GEMM FLOPs at the rate torch.mm reaches on the
head's three shapes in the same rounds; ``GB/s`` the least that given logits need over the time. ``peak`` is what the allocator
gave out at most during a step, above inputs and gradients. Errors are against float64, as in ``bench/head.py``.

``--device cpu`` runs the same code at sizes that a CPU bears: to check the script, not to compare anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import head
import logits_given
import torch
from head_contestants import CONTESTANTS, Problem, Result, Scenario
from head_oracle import Errors, errors, truth
from measure import Timings, first_line, gemm_flops, head_gemms, interleaved, write_json
from torch import Tensor

from fastpref import backends
from fastpref.work import count_gemm

GEMM = "torch.mm"
GIVEN = {"fastpref in place": logits_given.in_place, "fastpref": logits_given.ours}
BACKENDS = ("triton", "cuda")
"""Each runs in place beside whichever of them is the default."""


@dataclass(frozen=True)
class Row:
    """One line of a table. ``floor`` is of a linear head, ``rate`` (bytes per second) of given logits; errors are of a linear head."""

    contestant: str
    seconds: float
    ratio: float
    peak_bytes: int
    floor: float | None = None
    rate: float | None = None
    plan: str | None = None
    errors: Errors | None = None


def finish(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def available(device: torch.device) -> Callable[[], int] | None:
    """How to ask for the device's free memory; ``None``: the host's."""
    return (lambda: torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """Bytes allocated at most during ``run``, above those before."""
    if device.type != "cuda":
        with count_gemm() as count:
            run()
        return count.peak_bytes
    finish(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    finish(device)
    return torch.cuda.max_memory_allocated(device) - before


def timed(device: torch.device, runs: dict[str, Callable[[], object]], repeats: int, before: Callable[[str], object]) -> Timings:  # fmt: skip
    """Interleaved rounds; every run is over when the device is done, and none begins before."""

    def until_done(run: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            run()
            finish(device)

        return both

    def prepare(name: str) -> None:
        before(name)
        finish(device)

    return interleaved({name: until_done(run) for name, run in runs.items()}, repeats, before=prepare)


# --- hidden states given ------------------------------------------------------------------------------------------------------


def problem_on(p: Problem, device: torch.device) -> Problem:
    """The same leaves on a device, gradients too."""

    def moved(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        leaf = tensor.detach().to(device).requires_grad_(tensor.requires_grad)
        leaf.grad = None if tensor.grad is None else tensor.grad.to(device)
        return leaf

    names = ("hidden", "weight", "ref_hidden", "ref_weight", "targets", "ref_logps")
    return replace(p, **{name: moved(getattr(p, name)) for name in names})


def accuracy(names: list[str], p: Problem, scenario: Scenario, rows: int) -> dict[str, Errors]:
    """Errors on few rows, judged on the host."""
    torch._dynamo.reset()
    few, host = p.last_rows(rows), torch.device("cpu")
    exact, found = truth(problem_on(few, host)), {}
    for name in names:
        few.zero_grad()
        result = head.step(CONTESTANTS[name].load(scenario, few.hidden.dtype), few)
        there = Result(result.loss.detach().to(host), result.log_ratios.to(host))
        found[name] = errors(problem_on(few, host), there, exact)
    few.zero_grad()
    return found


def linear(args: argparse.Namespace, device: torch.device, rows: int, shape: tuple[int, int], dtype: str) -> dict[str, Any]:  # fmt: skip
    """One problem from hidden states."""
    torch._dynamo.reset()
    scenario = Scenario()
    p = problem_on(Problem.make(rows, args.sequences, *shape, getattr(torch, dtype), scenario), device)
    forms, results, skipped = head.runnable(args.contestants, p, scenario, available(device))
    runs: dict[str, Callable[[], object]] = {GEMM: head_gemms(p.hidden, p.weight)}
    runs |= {name: lambda form=form: head.step(form, p) for name, form in forms.items()}
    times = timed(device, runs, args.repeats, lambda _: p.zero_grad())
    peaks = {}
    for name, form in forms.items():
        p.zero_grad()
        peaks[name] = peak_bytes(device, lambda form=form: head.step(form, p)) - p.gradient_bytes
    p.zero_grad()
    runs.clear()
    errs = accuracy(list(forms), p, scenario, args.accuracy_rows)
    ours, work = next(iter(forms), ""), gemm_flops(rows, *shape)
    table = []
    for name, result in results.items():
        flops = CONTESTANTS[name].flops(p) if result.plan is None else result.plan.flops
        table.append(
            Row(
                name,
                times.median(name),
                times.ratio(name, ours),
                max(0, peaks[name]),
                floor=times.ratio(name, GEMM) * work / flops,
                plan=None if result.plan is None else result.plan.design,
                errors=errs[name],
            )
        )
    rate = work / times.median(GEMM) / 1e12
    title = f"hidden states given: T={rows} in {args.sequences}, H={shape[0]}, V={shape[1]}, {dtype}, torch.mm {rate:.3g} TFLOP/s"  # fmt: skip
    return {"problem": title, "rows": [asdict(row) for row in table], "skipped": skipped}


# --- logits given -------------------------------------------------------------------------------------------------------------


def given(args: argparse.Namespace, device: torch.device, rows: int, vocab: int, dtype: str) -> dict[str, Any]:
    """One problem from logits; in-place forms overwrite the policy's, which are restored outside the clock."""
    torch._dynamo.reset()
    p = logits_given.Problem(rows, args.sequences, vocab, getattr(torch, dtype))
    for name in ("policy", "reference", "targets", "cu_seqlens", "working", "anchor"):
        value = getattr(p, name)
        setattr(p, name, value.detach().to(device).requires_grad_(value.requires_grad))
    forms, skipped = {**GIVEN}, {}
    for backend in BACKENDS:
        try:
            backends.select(backend, device, p.policy.dtype)
        except ValueError as error:
            skipped[f"fastpref {backend}"] = first_line(error)
        else:
            forms[f"fastpref {backend}"] = partial(logits_given.one_call, inplace=True, backend=backend)
    forms |= logits_given.others(p, args.given_contestants)
    runs = {name: p.backward(form) for name, form in forms.items()}

    def restore(_: str) -> None:
        p.working.copy_(p.policy)

    times, peaks = timed(device, runs, args.repeats, restore), {}
    for name, run in runs.items():
        restore(name)
        peaks[name] = peak_bytes(device, run)
    least = 4 * p.policy.numel() * p.policy.element_size()  # policy read twice, reference read, gradient written
    ours = next(iter(forms))
    table = [
        Row(name, times.median(name), times.ratio(name, ours), peaks[name], rate=least / times.median(name))
        for name in forms
    ]
    return {
        "problem": f"logits given: T={rows} in {args.sequences}, V={vocab}, {dtype}",
        "rows": [asdict(row) for row in table],
        "skipped": skipped,
    }


# --- report -------------------------------------------------------------------------------------------------------------------


def print_table(table: dict[str, Any]) -> None:
    print(f"\n{table['problem']}")
    print(f"{'':<26}{'plan':>5}{'median ms':>11}{'ratio':>8}{'x floor':>9}{'GB/s':>8}{'peak MiB':>10}{'ratio error':>13}{'grad error':>12}")  # fmt: skip
    for row in table["rows"]:
        floor = "-" if row["floor"] is None else f"{row['floor']:.2f}"
        rate = "-" if row["rate"] is None else f"{row['rate'] / 1e9:.0f}"
        found = row["errors"]
        errs = ("-", "-") if found is None else (f"{found['log_ratio']:.1e}", f"{found['gradient']:.1e}")
        print(
            f"{row['contestant']:<26}{row['plan'] or '-':>5}{1e3 * row['seconds']:>11.3f}{row['ratio']:>7.2f}x{floor:>9}{rate:>8}"
            f"{row['peak_bytes'] / 2**20:>10.1f}{errs[0]:>13}{errs[1]:>12}"
        )
    for name, reason in table["skipped"].items():
        print(f"{name:<26}left out: {reason}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = [(1024, 151936), (2048, 128256), (4096, 128256)]
    parser.add_argument("--shapes", type=head.shape_of, nargs="+", default=shapes, metavar="HxV")
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 8192], help="T, multiples of --sequences")
    parser.add_argument("--sequences", type=int, default=4, help="even: chosen, then rejected, of equal length")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    others = list(logits_given.OTHERS)
    parser.add_argument("--given-contestants", nargs="*", default=others, choices=others)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--accuracy-rows", type=int, default=64, help="rows on which errors are measured")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(argv)
    if args.sequences % 2 or any(rows % args.sequences for rows in args.rows):
        parser.error("--rows: expected multiples of --sequences, and that even")
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: found no CUDA or ROCm GPU; --device cpu checks the script at small sizes")
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "the CPU"
    print(f"torch {torch.__version__} on {name}")
    tables = []
    for dtype in args.dtypes:
        for rows in args.rows:
            tables += [linear(args, args.device, rows, shape, dtype) for shape in args.shapes]
            tables += [given(args, args.device, rows, vocab, dtype) for vocab in dict.fromkeys(v for _, v in args.shapes)]  # fmt: skip
    for table in tables:
        print_table(table)
    write_json(args.json, {"device": name, "repeats": args.repeats, "tables": tables})
    return 0


if __name__ == "__main__":
    sys.exit(main())
