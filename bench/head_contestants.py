"""DPO from hidden states and a linear head: the problem, and every way to its loss and gradients that ``bench/head.py`` compares.

A contestant is a function from a ``Problem`` to ``(loss, log_ratios [K])``; calling ``backward()`` on the loss fills ``hidden.grad`` and, where the
head is trained, ``weight.grad``. Sequences are of equal length, K of them, chosen first; prompt tokens come first in each sequence and are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastpref
from fastpref.planner import DEFAULT_BUDGET_BYTES, Plan

BETA = 0.1
IGNORE = -100
LARGE_BUDGET_BYTES = 512 << 20


@dataclass(frozen=True)
class Scenario:
    """What is trained and what is known.

    Attributes:
        prompt_share: share of the tokens, at the start of every sequence, that are ignored.
        frozen_head: no gradient to the weight.
        precomputed_reference: the reference's sequence log-probs are given.
        shared_head: the reference uses the policy's weight.
    """

    prompt_share: float = 0.0
    frozen_head: bool = False
    precomputed_reference: bool = False
    shared_head: bool = False


@dataclass(frozen=True)
class Problem:
    """Inputs ``hidden, ref_hidden [T, H]``, ``weight, ref_weight [V, H]``, ``targets [T]``, and ``ref_logps [K]`` where it is precomputed."""

    hidden: Tensor
    weight: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    targets: Tensor
    sequences: int
    ref_logps: Tensor | None = None

    @staticmethod
    def make(
        rows: int, sequences: int, hidden: int, vocab: int, dtype: torch.dtype, scenario: Scenario = Scenario()
    ) -> Problem:
        """Logits that spread by a few units; the reference near the policy."""
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=generator).mul_(scale).to(dtype)

        policy, weight = draw(rows, hidden), draw(vocab, hidden, scale=2.5 / hidden**0.5)
        targets = torch.randint(0, vocab, (sequences, rows // sequences), generator=generator)
        targets[:, : int(scenario.prompt_share * targets.shape[1])] = IGNORE
        separate = not scenario.shared_head and not scenario.precomputed_reference
        made = Problem(
            hidden=policy.requires_grad_(),
            weight=weight.requires_grad_(not scenario.frozen_head),
            ref_hidden=policy.detach() + 0.05 * draw(rows, hidden),
            ref_weight=weight.detach().clone() if separate else weight.detach(),
            targets=targets.view(-1),
            sequences=sequences,
        )
        return made.with_reference() if scenario.precomputed_reference else made

    def with_reference(self) -> Problem:
        """With the reference's sequence log-probs, computed here: data for all, so whoever computes them favours none."""
        with torch.no_grad():
            tokens = fastpref.linear_logprobs(self.ref_hidden, self.ref_weight, self.targets, ignore_index=IGNORE).logps
        return replace(self, ref_logps=self.by_sequence(tokens).sum(-1))

    def last_rows(self, rows: int) -> Problem:
        """``rows`` of the rows, the last of every sequence; the same weights."""
        keep = max(1, min(rows, self.targets.numel()) // self.sequences)

        def cut(tensor: Tensor) -> Tensor:
            return self.by_sequence(tensor.detach())[:, -keep:].flatten(0, 1).contiguous()

        fewer = replace(
            self,
            hidden=cut(self.hidden).requires_grad_(),
            ref_hidden=cut(self.ref_hidden),
            targets=cut(self.targets),
        )
        return fewer if self.ref_logps is None else fewer.with_reference()

    @property
    def cu_seqlens(self) -> Tensor:
        """``[K+1]`` int32."""
        return torch.arange(0, self.targets.numel() + 1, self.targets.numel() // self.sequences, dtype=torch.int32)

    @property
    def active(self) -> Tensor:
        """``[T]`` bool, False on ignored rows."""
        return self.targets != IGNORE

    def by_sequence(self, rows: Tensor) -> Tensor:
        """``[T, ...]`` as ``[K, T/K, ...]``."""
        return rows.view(self.sequences, -1, *rows.shape[1:])

    def log_ratios(self, policy: Tensor, reference: Tensor | None) -> Tensor:
        """``[K]`` from token log-probs ``[T]``, summed in float32 whatever they are in; ``reference`` None where it is precomputed."""
        sums = self.by_sequence(policy.float().masked_fill(~self.active, 0.0)).sum(-1)
        if reference is None:
            return sums - self.ref_logps
        return sums - self.by_sequence(reference.float().masked_fill(~self.active, 0.0)).sum(-1)

    def zero_grad(self) -> None:
        """Drops the gradients."""
        self.hidden.grad = self.weight.grad = None

    @property
    def gradient_bytes(self) -> int:
        """Of what ``backward()`` leaves behind."""
        wanted = (t for t in (self.hidden, self.weight) if t.requires_grad)
        return sum(t.numel() * t.element_size() for t in wanted)


def dpo(log_ratios: Tensor) -> Tensor:
    """The DPO loss of ``[K]`` log-ratios, chosen first."""
    chosen, rejected = log_ratios.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


@dataclass(frozen=True)
class Result:
    """``loss`` carries the graph; ``log_ratios [K]`` is detached; ``plan`` is of this package's forms."""

    loss: Tensor
    log_ratios: Tensor
    plan: Plan | None = None


@dataclass(frozen=True)
class Contestant:
    """One way to the loss.

    Attributes:
        load: checks that it can run in this scenario and returns the function; ``ImportError`` or ``ValueError`` says why not.
        logits_copies: matrices ``[T, V]`` alive at once, in float32 where ``upcasts``: for the memory guard.
        recomputes: runs the head once more in backward.
        compiled: by torch.compile, so the first run is none to judge by.
        budget_bytes: scratch allowed; None where the form knows no budget.
    """

    load: Callable[[Scenario, torch.dtype], Callable[[Problem], Result]]
    logits_copies: int = 0
    upcasts: bool = False
    recomputes: bool = False
    compiled: bool = False
    budget_bytes: int | None = None

    def needed_bytes(self, p: Problem) -> int:
        """Roughly what a step allocates, gradients included: above what is available it is not run."""
        itemsize = 4 if self.upcasts else p.hidden.element_size()
        logits = self.logits_copies * p.targets.numel() * p.weight.shape[0] * itemsize
        return logits + 2 * p.gradient_bytes + (self.budget_bytes or 0)

    def flops(self, p: Problem) -> int:
        """GEMM FLOPs of a form without a plan: every row reaches the head."""
        passes = 4 + (2 if p.weight.requires_grad else 0) + (2 if self.recomputes else 0)
        passes += 2 if p.ref_logps is None else 0
        return passes * p.hidden.numel() * p.weight.shape[0]


def ours(budget_bytes: int | None, plan: str | None = None, backend: str | None = None) -> Contestant:
    """This package, in one call."""

    def run(p: Problem) -> Result:
        out = fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens,
            reference=(p.ref_hidden, p.ref_weight) if p.ref_logps is None else p.ref_logps,
            beta=BETA, ignore_index=IGNORE, plan=plan, budget_bytes=budget_bytes, backend=backend,
        )  # fmt: skip
        assert out.ref_logps is not None
        return Result(out.loss, out.logps - out.ref_logps, out.plan)

    limit = DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes
    return Contestant(lambda scenario, dtype: run, budget_bytes=limit)


def full_logits(compiled: bool = False, upcast: bool = False) -> Contestant:
    """Full logits, log_softmax, gather: what a plain training loop does; ``upcast`` takes the softmax in float32."""

    def token_logps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logits = hidden @ weight.t()
        logits = logits.float() if upcast else logits
        return logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[:, None]).squeeze(-1)

    def run(p: Problem, token_logps: Callable[..., Tensor] = token_logps) -> Result:
        reference = None
        if p.ref_logps is None:
            with torch.no_grad():
                reference = token_logps(p.ref_hidden, p.ref_weight, p.targets)
        ratios = p.log_ratios(token_logps(p.hidden, p.weight, p.targets), reference)
        return Result(dpo(ratios), ratios.detach())

    def load(scenario: Scenario, dtype: torch.dtype) -> Callable[[Problem], Result]:
        if upcast and dtype == torch.float32:
            raise ValueError("the same as naive in float32")
        if not compiled:
            return run
        fast = torch.compile(token_logps)
        return lambda p: run(p, fast)

    return Contestant(load, logits_copies=4, upcasts=upcast, compiled=compiled)


def liger(compiled: bool) -> Contestant:
    """Liger's fused linear DPO, one pair at a time."""

    def load(scenario: Scenario, dtype: torch.dtype) -> Callable[[Problem], Result]:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        if scenario.precomputed_reference:
            raise ValueError("Liger's loss takes no precomputed reference")
        loss_function = LigerFusedLinearDPOLoss(beta=BETA, compiled=compiled)

        def run(p: Problem) -> Result:
            hidden, reference = p.by_sequence(p.hidden), p.by_sequence(p.ref_hidden)
            loss, (*_, chosen, rejected) = loss_function(
                p.weight, hidden, p.by_sequence(p.targets), ref_input=reference, ref_weight=p.ref_weight
            )
            return Result(loss, torch.cat([chosen, rejected]).detach() / BETA)

        return run

    # Of one pair at least, whatever the number of sequences: an upper bound.
    return Contestant(load, logits_copies=4, upcasts=True, compiled=compiled)


def trl() -> Contestant:
    """TRL's chunked head as its DPO trainer calls it on a CPU: every position is scored, and masked afterwards."""

    def load(scenario: Scenario, dtype: torch.dtype) -> Callable[[Problem], Result]:
        from trl.kernels import ChunkedLogProbFunction
        from trl.trainer import utils

        # The trainer's chunk, private in TRL; the function has no default.
        columns = getattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32768)

        def token_logps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            options: tuple[Any, ...] = (None, targets.clamp(min=0), 1.0, columns, None, 1.0, ("log_probs",))
            return ChunkedLogProbFunction.apply(hidden, weight, *options)[0]

        def run(p: Problem) -> Result:
            reference = None
            if p.ref_logps is None:
                with torch.no_grad():
                    reference = token_logps(p.ref_hidden, p.ref_weight, p.targets)
            ratios = p.log_ratios(token_logps(p.hidden, p.weight, p.targets), reference)
            return Result(dpo(ratios), ratios.detach())

        return run

    return Contestant(load, logits_copies=4, upcasts=True, recomputes=True)


OURS = ("fastpref", "fastpref-512m")
"""What the acceptance thresholds judge: the planner's own choice at both budgets."""

CONTESTANTS: dict[str, Contestant] = {
    "fastpref": ours(None),
    "fastpref-512m": ours(LARGE_BUDGET_BYTES),
    **{f"fastpref-{plan.lower()}": ours(LARGE_BUDGET_BYTES, plan) for plan in ("D0", "D1", "D2", "D3")},
    **{f"fastpref-{backend}": ours(None, backend=backend) for backend in ("triton", "cuda")},
    "naive": full_logits(),
    "naive-fp32": full_logits(upcast=True),
    "compile": full_logits(compiled=True),
    "liger": liger(compiled=False),
    "liger-compiled": liger(compiled=True),
    "trl": trl(),
}
RIVALS = tuple(name for name in CONTESTANTS if not name.startswith("fastpref"))
