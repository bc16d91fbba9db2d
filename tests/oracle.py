"""Plain PyTorch with full logits, written from the formulas and independent of the package: in float64 the oracle, in another
dtype the yardstick of the precision rule (an error may be k times that of plain torch in the same dtype, plus a small floor)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOSS_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
GRADIENT_ULPS = 24.0
"""Floor of a gradient: the log-sum-exp (here below 16) is kept in float32, and its rounding is a relative error of every probability."""


@dataclass
class Problem:
    """Leaves and targets of one linear preference problem; ``at`` gives it in another dtype."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    cu_seqlens: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    ref_bias: Tensor | None

    def at(self, dtype: torch.dtype) -> Problem:
        def leaf(t: Tensor | None, grad: bool) -> Tensor | None:
            return None if t is None else t.detach().to(dtype).clone().requires_grad_(grad)

        return Problem(
            leaf(self.hidden, True), leaf(self.weight, True), leaf(self.bias, True), self.targets, self.cu_seqlens,
            leaf(self.ref_hidden, False), leaf(self.ref_weight, False), leaf(self.ref_bias, False),
        )  # fmt: skip

    @property
    def reference(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.ref_hidden, self.ref_weight, self.ref_bias

    def grads(self) -> list[Tensor]:
        return [t.grad for t in (self.hidden, self.weight, self.bias) if t is not None]


def make_problem(
    dtype: torch.dtype,
    lengths: list[int],
    hidden: int = 24,
    vocab: int = 301,
    bias: bool = True,
    ignored: float = 0.2,
    seed: int = 0,
) -> Problem:
    """A random problem whose numbers are exactly representable in ``dtype``; logits of a few units, policy near the reference."""
    g = torch.Generator().manual_seed(seed)
    rows = sum(lengths)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype)

    h, w = draw(rows, hidden), draw(vocab, hidden, scale=2.5 / hidden**0.5)
    b = draw(vocab) if bias else None
    targets = torch.randint(0, vocab, (rows,), generator=g)
    targets[torch.rand(rows, generator=g) < ignored] = -100
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    near = [(t + draw(*t.shape, scale=0.05)).to(dtype) if t is not None else None for t in (h, w, b)]
    return Problem(h, w, b, targets, cu, *near).at(dtype)


def transform(x: Tensor, logit_scale: float = 1.0, softcap: float | None = None, temperature: float = 1.0) -> Tensor:
    x = x * logit_scale
    if softcap is not None:
        x = torch.tanh(x / softcap) * softcap
    return x / temperature


def token_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, **options: float) -> Tensor:
    """``[T]``, 0 on ignored rows."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits = logits + bias
    picked = transform(logits, **options).log_softmax(-1).gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1)
    return picked.masked_fill(targets < 0, 0.0)


def sequence_logps(logps: Tensor, cu_seqlens: Tensor) -> Tensor:
    ends = cu_seqlens.tolist()
    return torch.stack([logps[a:b].sum() for a, b in zip(ends, ends[1:], strict=False)])


def dpo_loss(policy: Tensor, reference: Tensor | None, beta: float) -> Tensor:
    """Mean over pairs of ``softplus(-beta * margin)``."""
    h = policy if reference is None else policy - reference
    chosen, rejected = h.chunk(2)
    return torch.nn.functional.softplus(-beta * (chosen - rejected), threshold=1e9).mean()


def linear_dpo(p: Problem, beta: float, **options: float) -> Tensor:
    """The naive full-logits DPO loss of a problem, with its reference online."""
    policy = sequence_logps(token_logps(p.hidden, p.weight, p.bias, p.targets, **options), p.cu_seqlens)
    with torch.no_grad():
        ref = sequence_logps(token_logps(*p.reference, p.targets, **options), p.cu_seqlens)
    return dpo_loss(policy, ref, beta)


def error(found: Tensor, oracle: Tensor) -> float:
    """Largest absolute error."""
    return (found.detach().double() - oracle.detach().double()).abs().max().item()


def assert_precise(
    found: Tensor, oracle: Tensor, plain: Tensor, factor: float, *, ulps: float = 8.0, what: str = ""
) -> None:
    """The precision rule. The floor is a few units in the last place of float32 (or of a narrower dtype's result, rounded once)."""
    assert found.shape == oracle.shape, (what, found.shape, oracle.shape)
    scale = max(oracle.detach().abs().max().item(), 1e-30)
    unit = max(torch.finfo(found.dtype).eps / 2, torch.finfo(torch.float32).eps * ulps)
    if found.dtype == torch.float64:
        unit = torch.finfo(torch.float64).eps * 256
    allowed = factor * error(plain, oracle) + scale * unit
    assert error(found, oracle) <= allowed, (
        f"{what}: error {error(found, oracle):.3e}, plain torch {error(plain, oracle):.3e}, allowed {allowed:.3e}"
    )
