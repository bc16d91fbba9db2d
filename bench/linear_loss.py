"""DPO from hidden states: this package's plans against the naive full-logits loss, time and peak memory, in one interleaved run.

    python bench/linear_loss.py [--rows 1024 --sequences 8 --hidden 576 --vocab 49152 --dtypes float32 bfloat16 --repeats 7 --json FILE]

Time is forward + backward with the reference online and gradients to hidden and weight; A B A B, medians, ratios to naive. Peak memory
is the growth of the process's resident set above its inputs, gradients not counted, each in a process of its own (so that no allocator's
cache hides it). `share` is the plan's GEMM FLOPs at the rate torch.mm reaches on the three head shapes in the same run, over the time.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

import fastpref

BETA = 0.1
NAMES = ("naive", "naive fp32 softmax", "fastpref D0", "fastpref D1")


def make(args: argparse.Namespace, dtype: torch.dtype) -> dict:
    """Inputs whose logits spread by a few units; the reference near the policy."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=g) * scale).to(dtype)

    hidden, weight = draw(args.rows, args.hidden), draw(args.vocab, args.hidden, scale=2.5 / args.hidden**0.5)
    ends = torch.linspace(0, args.rows, args.sequences + 1).to(torch.int32)
    return {
        "hidden": hidden.requires_grad_(),
        "weight": weight.requires_grad_(),
        "ref_hidden": (hidden + 0.05 * draw(*hidden.shape)).detach(),
        "ref_weight": weight.detach().clone(),
        "targets": torch.randint(0, args.vocab, (args.rows,), generator=g),
        "cu_seqlens": ends,
    }


def naive(d: dict, upcast: bool) -> torch.Tensor:
    """Full logits, log_softmax, gather: what a plain training loop does; ``upcast`` takes the softmax in float32."""

    def sequences(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = hidden @ weight.t()
        logps = (logits.float() if upcast else logits).log_softmax(-1).gather(-1, d["targets"][:, None]).squeeze(-1)
        return torch.stack([s.sum() for s in logps.split(d["cu_seqlens"].diff().tolist())])

    policy = sequences(d["hidden"], d["weight"])
    with torch.no_grad():
        reference = sequences(d["ref_hidden"], d["ref_weight"])
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def fused(d: dict, plan: str, budget_bytes: int | None) -> torch.Tensor:
    """The same loss in one call."""
    return fastpref.linear_preference_loss(
        "sigmoid", d["hidden"], d["weight"], d["targets"], d["cu_seqlens"],
        reference=(d["ref_hidden"], d["ref_weight"]), beta=BETA, plan=plan, budget_bytes=budget_bytes,
    ).loss  # fmt: skip


def forms(budget_bytes: int | None) -> dict[str, Callable[[dict], torch.Tensor]]:
    """Every contestant by name."""
    losses = (
        lambda d: naive(d, False),
        lambda d: naive(d, True),
        lambda d: fused(d, "D0", budget_bytes),
        lambda d: fused(d, "D1", budget_bytes),
    )
    return dict(zip(NAMES, losses, strict=True))


def step(form: Callable[[dict], torch.Tensor], d: dict) -> float:
    """Seconds of one forward + backward; the gradients are dropped before."""
    d["hidden"].grad = d["weight"].grad = None
    start = time.perf_counter()
    form(d).backward()
    return time.perf_counter() - start


def resident() -> int:
    """Bytes of the process's resident set now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(args: argparse.Namespace, name: str, dtype: torch.dtype) -> int:
    """Peak bytes above inputs and gradients of one step, sampled by a thread, after a warm-up of the libraries on a tiny problem."""
    tiny = argparse.Namespace(rows=args.sequences * 2, sequences=args.sequences, hidden=args.hidden, vocab=512)
    form = forms(args.budget_bytes)[name]
    step(form, make(tiny, dtype))
    d = make(args, dtype)
    before, highest, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.0005):
            highest = max(highest, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    step(form, d)
    done.set()
    thread.join()
    gradients = sum(d[k].numel() * d[k].element_size() for k in ("hidden", "weight"))
    return max(highest, resident()) - before - gradients


def gemm_rate(d: dict) -> float:
    """FLOP/s of torch.mm, the mean over the three head shapes (logits, dX, dW) weighted by time."""
    hidden, weight = d["hidden"].detach(), d["weight"].detach()
    grad = torch.zeros(hidden.shape[0], weight.shape[0], dtype=hidden.dtype)
    start = time.perf_counter()
    torch.mm(hidden, weight.t(), out=grad)
    torch.mm(grad, weight)
    torch.mm(grad.t(), hidden)
    return 6 * hidden.numel() * weight.shape[0] / (time.perf_counter() - start)


def in_own_process(args: argparse.Namespace, name: str, dtype: str) -> int:
    """``peak`` in a fresh process."""
    shape = [f"--{k}={getattr(args, k)}" for k in ("rows", "sequences", "hidden", "vocab")]
    budget = [] if args.budget_bytes is None else [f"--budget-bytes={args.budget_bytes}"]
    command = [sys.executable, __file__, *shape, *budget, "--peak-of", name, "--dtypes", dtype]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1024), ("sequences", 8), ("hidden", 576), ("vocab", 49152), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget-bytes", type=int, default=None, help="default: the package's own, 64 MiB")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(peak(args, args.peak_of, getattr(torch, args.dtypes[0])))
        return

    shape = f"T={args.rows} in {args.sequences} sequences, H={args.hidden}, V={args.vocab}"
    print(f"{shape}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    results = []
    for dtype in args.dtypes:
        d = make(args, getattr(torch, dtype))
        contestants = forms(args.budget_bytes)
        for form in contestants.values():
            step(form, d)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        rates = []
        for _ in range(args.repeats):
            rates.append(gemm_rate(d))
            for name, form in contestants.items():
                times[name].append(step(form, d))
        rate = statistics.median(rates)
        work = {name: (10 if name == "fastpref D0" else 8) * args.rows * args.hidden * args.vocab for name in times}
        medians = {name: statistics.median(t) for name, t in times.items()}
        peaks = {name: in_own_process(args, name, dtype) for name in times}
        print(f"\n{dtype}: torch.mm {rate / 1e9:.0f} GFLOP/s on the head's shapes")
        print(f"{'':<20}{'median ms':>10}{'speed-up':>10}{'share':>8}{'peak MiB':>10}{'memory':>9}")
        for name, seconds in medians.items():
            row = {
                "dtype": dtype, "form": name, "seconds": seconds, "speedup": medians["naive"] / seconds,
                "gemm_share": work[name] / rate / seconds, "peak_bytes": peaks[name],
                "memory_ratio": peaks["naive"] / max(peaks[name], 1),
            }  # fmt: skip
            results.append(row)
            print(
                f"{name:<20}{1e3 * seconds:>10.0f}{row['speedup']:>9.2f}x{row['gemm_share']:>8.0%}"
                f"{peaks[name] / 2**20:>10.0f}{row['memory_ratio']:>8.1f}x"
            )
    if args.json:
        args.json.write_text(
            json.dumps({"shape": shape, "torch": torch.__version__, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
