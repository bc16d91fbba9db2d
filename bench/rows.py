"""The two row kernels of the native CPU backend against plain PyTorch, in one interleaved run.

    python bench/rows.py [--rows 1024 --vocab 32000 --dtypes float32 bfloat16 --repeats 15 --json FILE]

Statistics: token log-probs from given logits. Gradient: that of ``sum_t c_t logp_t`` with respect to the logits, with the forward
pass already done; ours is written in place over the logits, or into a buffer that is used again and again. Forward and backward: both,
into such a buffer. The statistics that can be asked for beside the log-probability are compared with the plain sweep. Every variant runs once per round, in turn (A B A B), and times are
medians over the rounds. ``ratio`` is a variant's time over ours, so more than 1 means that ours is faster. ``bandwidth`` counts the
bytes that the task needs (statistics: one read; gradient: one read and one write) and ``share`` compares it with how fast this machine
reads memory, or updates it in place, or does both, in the same rounds. Lines marked * reuse or destroy a buffer in a way that autograd does not.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measure import interleaved, stream_limits, write_json
from torch import Tensor
from torch.nn import functional as F

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS
from fastpref.backends.cpu import CpuBackend
from fastpref.backends.native import load_native

OURS, LIMIT = "fastpref", "memory"
PLAIN = LogitTransform()
Variants = dict[str, Callable[[], object]]


class Problem:
    """Logits ``[R, V]`` that spread by a few units, as a language model's do, targets and one coefficient per row."""

    def __init__(self, rows: int, vocab: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.empty(rows, vocab, dtype=dtype)
        for row in self.logits:  # no fp32 copy of the whole
            row.copy_(torch.randn(vocab, generator=generator) * 2.5)
        self.targets = torch.randint(0, vocab, (rows,), generator=generator)
        self.coef = torch.full((rows,), 0.1 / rows)

    @property
    def column(self) -> Tensor:
        """Targets as ``[R, 1]``, for gather."""
        return self.targets[:, None]

    @property
    def nbytes(self) -> int:
        return self.logits.numel() * self.logits.element_size()


def trl_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """As TRL's ``selective_log_softmax`` does it: row by row, and by log-sum-exp where the dtype is exact enough for that.

    ``[..., V]`` and ``[...]`` to ``[...]``; a row is whatever the first dimension counts.
    """
    if logits.dtype == torch.float32:
        lse = torch.stack([row.logsumexp(-1) for row in logits])
        return logits.gather(-1, targets[..., None]).squeeze(-1) - lse
    rows = zip(logits, targets, strict=True)
    return torch.stack([row.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1) for row, target in rows])


def token_logps(p: Problem, backend: CpuBackend, stats: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
    """One sweep: ``(logps, lse)``, and what else was asked for on the way."""
    state = RowState.start(p.logits.shape[0], p.logits.device, torch.float32, stats)
    backend.row_stats(p.logits, p.targets, state, col0=0, transform=PLAIN)
    return state.finish(p.targets)


def companion_variants(p: Problem, backend: CpuBackend) -> Variants:
    """The plain sweep, and the same with one statistic more and with all of them."""
    asked = {OURS: (), **{f"with {name}": (name,) for name in STATISTICS}, "with all of them": STATISTICS}
    return {name: lambda stats=stats: token_logps(p, backend, stats) for name, stats in asked.items()}


def statistics_variants(p: Problem, backend: CpuBackend) -> Variants:
    """Ways from logits to token log-probs."""
    x, column, reused = p.logits, p.column, torch.empty_like(p.logits)
    variants: Variants = {
        OURS: lambda: token_logps(p, backend),
        "log_softmax, gather": lambda: x.log_softmax(-1).gather(-1, column),
        "gather - logsumexp": lambda: x.gather(-1, column) - x.logsumexp(-1, keepdim=True),
        "cross_entropy": lambda: F.cross_entropy(x, p.targets, reduction="none"),
        "TRL, row by row": lambda: trl_log_softmax(x, p.targets),
        "* log_softmax(out=), gather": lambda: torch.log_softmax(x, -1, out=reused).gather(-1, column),
    }
    if x.dtype != torch.float32:
        variants["float32 log_softmax, gather"] = lambda: x.log_softmax(-1, dtype=torch.float32).gather(-1, column)
    return variants


def gradient_variants(p: Problem, backend: CpuBackend) -> Variants:
    """Ways from logits, log-sum-exp and coefficients to the gradient. In-place ones keep running on their own output."""
    leaf = p.logits.clone().requires_grad_()
    lse = p.logits.float().logsumexp(-1)
    mine, chained, softmaxed, reused = (p.logits.clone() for _ in range(4))
    column, coef = p.column, p.coef.to(p.logits.dtype)

    def backward(logps: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(logps, leaf, coef.view_as(logps), retain_graph=True)

    def chain() -> Tensor:
        chained.sub_(lse[:, None]).exp_().mul_(-coef[:, None])
        return chained.scatter_add_(1, column, coef[:, None])

    def softmax_chain() -> Tensor:
        torch.softmax(softmaxed, -1, out=softmaxed)
        return softmaxed.mul_(-coef[:, None]).scatter_add_(1, column, coef[:, None])

    return {
        OURS: lambda: backend.row_grad(mine, p.targets, lse, p.coef, p.coef, mine, col0=0, transform=PLAIN),
        "* ours, into a buffer": lambda: backend.row_grad(
            p.logits, p.targets, lse, p.coef, p.coef, reused, col0=0, transform=PLAIN
        ),
        "autograd of log_softmax, gather": backward(leaf.log_softmax(-1).gather(-1, column)),
        "autograd of gather - logsumexp": backward(leaf.gather(-1, column) - leaf.logsumexp(-1, keepdim=True)),
        "autograd of cross_entropy": backward(-F.cross_entropy(leaf, p.targets, reduction="none")),
        "* in place: sub_ exp_ mul_ scatter_add_": chain,
        "* in place: softmax(out=) mul_ scatter_add_": softmax_chain,
    }


def both_variants(p: Problem, backend: CpuBackend) -> Variants:
    """Ways from logits and coefficients to the gradient, forward included. Ours writes into a buffer of its own, used again."""
    leaf, column, coef = p.logits.clone().requires_grad_(), p.column, p.coef.to(p.logits.dtype)
    out = torch.zeros_like(p.logits)

    def ours() -> None:
        _, lse = token_logps(p, backend)
        backend.row_grad(p.logits, p.targets, lse, p.coef, p.coef, out, col0=0, transform=PLAIN)

    def autograd(logps: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad((logps().flatten() * coef).sum(), leaf)

    return {
        OURS: ours,
        "log_softmax, gather": autograd(lambda: leaf.log_softmax(-1).gather(-1, column)),
        "gather - logsumexp": autograd(lambda: leaf.gather(-1, column) - leaf.logsumexp(-1, keepdim=True)),
        "cross_entropy": autograd(lambda: F.cross_entropy(leaf, p.targets, reduction="none")),
    }


def report(task: str, p: Problem, seconds: dict[str, float], needed: int) -> dict[str, object]:
    """Prints one table; returns it for ``--json``."""
    ours = seconds[OURS]
    torch_names = [name for name in seconds if name not in (OURS, LIMIT)]
    fastest = min((n for n in torch_names if not n.startswith("*")), key=seconds.__getitem__)
    dtype = str(p.logits.dtype).removeprefix("torch.")
    print(f"\n{task}, {p.logits.shape[0]} x {p.logits.shape[1]} {dtype}")
    for name in [OURS, *sorted(torch_names, key=seconds.__getitem__)]:
        print(f"  {name:<46}{seconds[name] * 1e3:9.2f} ms   ratio {seconds[name] / ours:6.2f}")
    share = seconds[LIMIT] / ours
    print(
        f"  bandwidth {needed / ours / 1e9:.1f} GB/s; memory alone {needed / seconds[LIMIT] / 1e9:.1f} GB/s; share {share:.0%}"
    )
    print(f"  {seconds[fastest] / ours:.1f}x torch's fastest ({fastest})")
    return {
        "task": task,
        "rows": p.logits.shape[0],
        "vocab": p.logits.shape[1],
        "dtype": dtype,
        "seconds": seconds,
        "ratio_to_fastest": seconds[fastest] / ours,
        "fastest": fastest,
        "bandwidth_gb_s": needed / ours / 1e9,
        "share_of_memory": share,
    }


def report_companions(p: Problem, seconds: dict[str, float]) -> dict[str, object]:
    """Prints what each statistic adds to the plain sweep; returns it for ``--json``."""
    dtype = str(p.logits.dtype).removeprefix("torch.")
    print(f"\nstatistics asked for, {p.logits.shape[0]} x {p.logits.shape[1]} {dtype}")
    for name, value in seconds.items():
        print(f"  {name:<46}{value * 1e3:9.2f} ms   over plain {value / seconds[OURS] - 1:+7.1%}")
    return {
        "task": "statistics asked for",
        "rows": p.logits.shape[0],
        "vocab": p.logits.shape[1],
        "dtype": dtype,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()

    backend, native = CpuBackend(), load_native()
    threads = torch.get_num_threads()
    print(f"{backend.describe()}; {threads} threads; torch {torch.__version__}; medians of {args.repeats} rounds")
    tables = []
    for name in args.dtypes:
        p = Problem(args.rows, args.vocab, getattr(torch, name))
        memory = p.logits.clone()
        read, update = stream_limits(native, memory)

        def stream_both(read: Callable[[], object] = read, update: Callable[[], object] = update) -> None:
            read()
            update()

        variants = statistics_variants(p, backend) | {LIMIT: read}
        tables.append(report("statistics", p, interleaved(variants, args.repeats).medians(), p.nbytes))
        variants = gradient_variants(p, backend) | {LIMIT: update}
        tables.append(report("gradient in place", p, interleaved(variants, args.repeats).medians(), 2 * p.nbytes))
        variants = both_variants(p, backend) | {LIMIT: stream_both}
        tables.append(report("forward and backward", p, interleaved(variants, args.repeats).medians(), 3 * p.nbytes))
        companions = interleaved(companion_variants(p, backend), args.repeats).medians()
        tables.append(report_companions(p, companions))
        del variants, memory, read, update
    write_json(args.json, {"backend": backend.describe(), "repeats": args.repeats, "tables": tables})


if __name__ == "__main__":
    main()
