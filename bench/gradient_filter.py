"""What gradient filtering leaves out, on softmaxes from flat to peaked: GEMM work, time and relative error of the gradients.

    python bench/gradient_filter.py [--threshold 0.000244140625] [--dtype bfloat16|float32]

The vocabulary is sorted by frequency (a bias falls along it, as a tokenizer's ids do) and every row favours its target. ``kept`` is the share of
the gradients' GEMM work that is left, ``time`` that of a backward relative to the exact one, errors are ``|g - exact| / |exact|``
(Frobenius) against the unfiltered gradients in the same dtype.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import argparse
import statistics
import time

import torch

import fastpref
from fastpref import gradient_filter, linear_head

ROWS, HIDDEN, VOCAB = 512, 256, 32768
SOFTMAXES = (
    ("uniform", 0.1, 0.0, 0.0),
    ("flat", 1.0, 0.0, 0.0),
    ("sloped", 1.0, 0.0, 12.0),
    ("mixed", 1.0, 8.0, 16.0),
    ("peaked", 1.0, 16.0, 16.0),
)


def problem(spread: float, peak: float, fall: float, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """``hidden``, ``weight``, ``bias``, ``targets``: logits of that spread, ``peak`` more at the target, a bias that falls by ``fall``."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, HIDDEN, generator=g) / HIDDEN**0.5
    bias = -fall * torch.arange(1, VOCAB + 1).log() / torch.tensor(float(VOCAB)).log()
    targets = torch.multinomial(bias.softmax(0), ROWS, replacement=True, generator=g)
    hidden = spread * torch.randn(ROWS, HIDDEN, generator=g) + peak * weight[targets]
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), bias, targets


def gradients(
    operands: tuple[torch.Tensor, ...], threshold: float | None
) -> tuple[list[torch.Tensor], float, float, float]:
    """The gradients of hidden states and weight, the mean probability of the targets, the seconds and the share of columns kept."""
    hidden, weight, bias, targets = operands
    share = []
    choose = gradient_filter.GradientFilter.pieces

    def counted(self, logits, columns, block):  # type: ignore[no-untyped-def]
        found = choose(self, logits, columns, block)
        kept = sum((p.stop - p.start) * (logits.shape[1] if c is None else c.numel()) for p, c in found)
        share.append(kept / logits.numel())
        return found

    linear_head.GradientFilter.pieces = counted  # type: ignore[method-assign]
    try:
        hidden.grad = weight.grad = None
        logps = fastpref.linear_logprobs(hidden, weight, targets, bias=bias, gradient_filter=threshold).logps
        start = time.perf_counter()
        logps.sum().backward()
        seconds = time.perf_counter() - start
    finally:
        linear_head.GradientFilter.pieces = choose  # type: ignore[method-assign]
    grads = [hidden.grad.double(), weight.grad.double()]
    return grads, logps.exp().mean().item(), seconds, statistics.mean(share) if share else 1.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threshold", type=float, default=2**-12)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    print(f"T={ROWS} H={HIDDEN} V={VOCAB} {arguments.dtype}, threshold {arguments.threshold:.3g}")
    print(f"{'softmax':<10}{'mean p':>8}{'kept':>8}{'time':>8}{'dX error':>11}{'dW error':>11}")
    for name, spread, peak, fall in SOFTMAXES:
        operands = problem(spread, peak, fall, dtype)
        times: dict[float | None, list[float]] = {None: [], arguments.threshold: []}
        for _ in range(3):
            for threshold in times:
                grads, mean, seconds, kept = gradients(operands, threshold)
                times[threshold].append(seconds)
                if threshold is None:
                    exact = grads
        errors = [((a - b).norm() / b.norm()).item() for a, b in zip(grads, exact, strict=True)]
        ratio = statistics.median(times[arguments.threshold]) / statistics.median(times[None])
        print(f"{name:<10}{mean:>8.3f}{kept:>8.2f}{ratio:>8.2f}{errors[0]:>11.1e}{errors[1]:>11.1e}")


if __name__ == "__main__":
    main()
