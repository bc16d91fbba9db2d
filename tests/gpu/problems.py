"""Problems of the oracle on a device, and its judgement of what was found there."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from tests import oracle

NAMES = ("hidden", "weight", "bias")


def on(problem: oracle.Problem, device: torch.device) -> oracle.Problem:
    """The same leaves on a device."""

    def moved(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.detach().to(device).requires_grad_(value.requires_grad)

    return replace(problem, **{field.name: moved(getattr(problem, field.name)) for field in fields(problem)})


def judge_gradients(found: oracle.Problem, exact: oracle.Problem, plain: oracle.Problem) -> None:
    """The precision rule on every gradient, all computed on the same device."""
    for name, a, b, c in zip(NAMES, found.grads(), exact.grads(), plain.grads(), strict=False):
        assert a.dtype == getattr(found, name).dtype
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR, what=f"gradient of {name}")
