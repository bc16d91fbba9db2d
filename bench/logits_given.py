"""DPO from given logits, policy and reference: this package against PyTorch, TRL's path and torch.compile, and against memory.

    python bench/logits_given.py [--rows 1024 --sequences 4 --vocabs 32000 128256 151936 --dtypes float32 bfloat16 --repeats 9]
                                 [--contestants NAME ...] [--json FILE] [--check]

``forward`` is token log-probs of policy and reference, their sums per sequence and the loss. ``forward+backward`` adds the gradient with
respect to the policy's logits. Every variant runs once per round, in turn. ``share`` compares our time with what memory alone
allows in the same rounds: a plain vectorised read of both operands, and for the backward pass an in-place update of one. Ratios
above 1 mean that ours is faster.

Ours is ``logits_preference_loss``, with three backward passes: ``in place`` overwrites the logits, ``reused buffer`` writes the gradient into a buffer that lives on
(by the backend's stage: the public functions have no argument for it), ``fresh`` allocates it. PyTorch and the others always allocate theirs.
``--check`` judges the forward pass, and the faster of the two backward passes that touch no fresh memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Timings, first_line, interleaved, print_checks, stream_limits, write_json
from rows import trl_log_softmax
from torch import Tensor
from torch.nn import functional as F

import fastpref
from fastpref.backends import LogitTransform
from fastpref.backends.cpu import CpuBackend
from fastpref.backends.native import load_native
from fastpref.backends.stage import Stage

BETA = 0.1
READ, UPDATE, LIMIT = "read", "update", "memory"
OURS = "fastpref"
BACKWARDS = ("fastpref, in place", "fastpref, reused buffer", "fastpref, fresh")
REUSING = BACKWARDS[:2]
EAGER, UPCAST, TRL, COMPILED = "eager", "eager, float32 softmax", "TRL selective_log_softmax", "torch.compile of eager"
OTHERS = (EAGER, UPCAST, TRL, COMPILED)

ACCEPTED_SHARE = 0.80
ACCEPTED_RATIOS = {
    "forward": {EAGER: 4.0, TRL: 4.0, COMPILED: 2.5},
    "forward+backward": {EAGER: 5.0, TRL: 5.0, COMPILED: 4.0},
}

LogProbs = Callable[[Tensor, Tensor], Tensor]
"""Token log-probs ``[T]`` of logits and targets."""

Loss = Callable[["Problem", Tensor], Tensor]
"""DPO of a problem's policy logits."""


class Given(torch.autograd.Function):
    """Logits as a model's output: no leaf, and their gradient is dropped. Costs nothing, so that only the loss is timed."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, logits: Tensor) -> Tensor:
        return logits.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(()), None


class IntoBuffer(torch.autograd.Function):
    """The loss by the stage that ``fastpref.logits_preference_loss`` runs, with the gradient written into a buffer that the caller keeps."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, p: Problem, buffer: Tensor, stage: Stage) -> Tensor:
        absent = dict.fromkeys(("ref_logps", "weights", "number", "divisors"))
        staged = stage.forward(
            "sigmoid", [BETA], logits, p.reference, p.targets, p.cu_seqlens, ignore_index=-100,
            transform=LogitTransform(), data=(), reward_scale=BETA, **absent,
        )  # fmt: skip
        ctx.save_for_backward(logits, p.targets, staged.lse, staged.coef)
        ctx.buffer, ctx.stage = buffer, stage
        return staged.loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        ctx.stage.backward(*ctx.saved_tensors, grad, ctx.buffer, LogitTransform())
        return ctx.buffer, None, None, None


class Problem:
    """Policy and reference logits ``[T, V]`` that spread by a few units, targets ``[T]``, sequences of equal length."""

    def __init__(self, rows: int, sequences: int, vocab: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sequences = sequences
        self.cu_seqlens = torch.arange(0, rows + 1, rows // sequences, dtype=torch.int32)
        self.policy, self.reference = (torch.empty(rows, vocab, dtype=dtype) for _ in range(2))
        for policy, reference in zip(self.policy, self.reference, strict=True):  # no fp32 copy of the whole
            values = torch.randn(vocab, generator=generator) * 2.5
            policy.copy_(values)
            reference.copy_(values + 0.1 * torch.randn(vocab, generator=generator))
        self.targets = torch.randint(0, vocab, (rows,), generator=generator)
        self.anchor = torch.zeros((), requires_grad=True)
        self.working = self.policy.clone()
        """The policy's logits that contestants are given; an in-place backward pass overwrites them."""

    def forward(self, loss: Loss) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return loss(self, Given.apply(self.anchor, self.working))

        return run

    def backward(self, loss: Loss) -> Callable[[], None]:
        return lambda: loss(self, Given.apply(self.anchor, self.working)).backward()


def composed(logprobs: LogProbs) -> Loss:
    """DPO with the reference detached; sums in float32, whatever the token log-probs are in."""

    def loss(p: Problem, logits: Tensor) -> Tensor:
        policy = logprobs(logits, p.targets)
        with torch.no_grad():
            reference = logprobs(p.reference, p.targets)
        margins = (policy.float() - reference.float()).view(p.sequences, -1).sum(-1)
        chosen, rejected = margins.chunk(2)
        return -F.logsigmoid(BETA * (chosen - rejected)).mean()

    return loss


def eager(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def upcast(logits: Tensor, targets: Tensor) -> Tensor:
    return eager(logits.float(), targets)


def trl_path(sequences: int) -> tuple[LogProbs, str]:
    """TRL's function on ``[B, L, V]``, and where it comes from: the installed TRL, or our own writing of what it does."""
    try:
        from trl.trainer.utils import selective_log_softmax

        origin = "TRL's own, from the installed package"
    except ImportError as error:
        selective_log_softmax = trl_log_softmax
        origin = f"our own writing of TRL's ({first_line(error)})"

    def logprobs(logits: Tensor, targets: Tensor) -> Tensor:
        batch = logits.view(sequences, -1, logits.shape[-1])
        return selective_log_softmax(batch, targets.view(sequences, -1)).view(-1)

    return logprobs, origin


def others(p: Problem, names: list[str]) -> dict[str, Loss]:
    """The other ways from logits to the loss, by name."""
    forms: dict[str, LogProbs] = {EAGER: eager}
    if p.policy.dtype != torch.float32:
        forms[UPCAST] = upcast
    forms[TRL] = trl_path(p.sequences)[0]
    torch._dynamo.reset()
    forms[COMPILED] = torch.compile(eager)
    return {name: composed(form) for name, form in forms.items() if name in names}


def ours(p: Problem, logits: Tensor) -> Tensor:
    return one_call(p, logits, False)


def in_place(p: Problem, logits: Tensor) -> Tensor:
    return one_call(p, logits, logits.requires_grad)


def one_call(p: Problem, logits: Tensor, inplace: bool, backend: str | None = None) -> Tensor:
    return fastpref.logits_preference_loss(
        "sigmoid",
        logits,
        p.targets,
        p.cu_seqlens,
        reference=p.reference,
        beta=BETA,
        inplace_backward=inplace,
        backend=backend,
    ).loss


def into_buffer(stage: Stage, buffer: Tensor) -> Loss:
    return lambda p, logits: IntoBuffer.apply(logits, p, buffer, stage)


def report(task: str, p: Problem, times: Timings, best: str) -> dict[str, Any]:
    """Prints one table, ratios to ``best``; returns it for ``--json`` and ``--check``."""
    needed = (2 if task == "forward" else 4) * p.policy.numel() * p.policy.element_size()
    dtype = str(p.policy.dtype).removeprefix("torch.")
    names = [name for name in times.seconds if name not in (READ, UPDATE, LIMIT)]
    print(f"\n{task}, policy and reference {p.policy.shape[0]} x {p.policy.shape[1]} {dtype}")
    for name in names:
        share = f"   share {times.ratio(LIMIT, name):5.0%}" if name.startswith(OURS) else ""
        print(f"  {name:<30}{times.median(name) * 1e3:9.2f} ms   ratio {times.ratio(name, best):6.2f}{share}")
    limit = times.median(LIMIT)
    print(f"  {best}: {needed / times.median(best) / 1e9:.1f} GB/s; memory alone {needed / limit / 1e9:.1f} GB/s")
    return {
        "task": task,
        "rows": p.policy.shape[0],
        "vocab": p.policy.shape[1],
        "dtype": dtype,
        "best": best,
        "medians": times.medians(),
        "ratios": {name: times.ratio(name, best) for name in names},
        "shares": {name: times.ratio(LIMIT, name) for name in names if name.startswith(OURS)},
    }


def checks(tables: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """Every acceptance threshold that these tables can answer."""
    found = []
    for table in tables:
        what = f"{table['task']}, V={table['vocab']}, {table['dtype']}"
        share = table["shares"][table["best"]]
        found.append((f"{what}: share of memory {share:.0%} >= {ACCEPTED_SHARE:.0%}", share >= ACCEPTED_SHARE))
        for name, least in ACCEPTED_RATIOS[table["task"]].items():
            if name in table["ratios"]:
                ratio = table["ratios"][name]
                found.append((f"{what}: {ratio:.2f}x {name} >= {least:.1f}x", ratio >= least))
    return found


def measure(p: Problem, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Both tables of one problem."""
    native = load_native()
    rest = others(p, names)
    read, update = stream_limits(native, p.policy.clone())
    forward = {OURS: p.forward(ours), **{name: p.forward(form) for name, form in rest.items()}, READ: read}
    times = interleaved(forward, repeats).sum_of(LIMIT, [READ, READ])
    tables = [report("forward", p, times, OURS)]

    buffer = torch.zeros_like(p.policy)
    mine = dict(zip(BACKWARDS, (in_place, into_buffer(CpuBackend().stage, buffer), ours), strict=True))
    runs = {name: p.backward(form) for name, form in {**mine, **rest}.items()}
    # The limits run right after the in-place form: the logits are restored before them, and no contestant finds these in the cache.
    runs = {BACKWARDS[0]: runs[BACKWARDS[0]], READ: read, UPDATE: update, **runs}

    def restore(name: str) -> None:
        if name == READ:
            p.working.copy_(p.policy)

    times = interleaved(runs, repeats, before=restore)
    times = times.sum_of(LIMIT, [READ, READ, UPDATE])
    tables.append(report("forward+backward", p, times, min(REUSING, key=times.median)))
    return tables


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="T, a multiple of --sequences")
    parser.add_argument("--sequences", type=int, default=4, help="even: chosen, then rejected")
    parser.add_argument("--vocabs", type=int, nargs="+", default=[32000, 128256, 151936])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--contestants", nargs="+", default=list(OTHERS), choices=OTHERS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument(
        "--check", action="store_true", help="print which acceptance thresholds hold; exit 1 if not all do"
    )
    args = parser.parse_args(argv)
    if args.sequences % 2 or args.rows % args.sequences:
        parser.error("--rows: expected a multiple of --sequences, and that even")

    origin = trl_path(args.sequences)[1] if TRL in args.contestants else "left out"
    print(
        f"{CpuBackend().describe()}; {torch.get_num_threads()} threads; torch {torch.__version__}; TRL's path: {origin}"
    )
    tables = []
    for vocab in args.vocabs:
        for dtype in args.dtypes:
            p = Problem(args.rows, args.sequences, vocab, getattr(torch, dtype))
            tables += measure(p, args.contestants, args.repeats)
    write_json(args.json, {"trl": origin, "repeats": args.repeats, "tables": tables})
    return print_checks(checks(tables)) if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
