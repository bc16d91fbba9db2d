"""The scalar functions that losses are written in, in forms that neither overflow nor lose digits (arXiv ids are with the losses).

All are elementwise torch. A hyper-parameter may come in as a Python number or as a zero-dimensional tensor (when device code is
derived from a definition): :func:`log_of` takes both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_EXPONENT = 80.0
"""Exponents are clamped here (TRL's limit in float32): ``exp`` stays finite in float32, and its derivative beyond is 0."""


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x) = -log sigmoid(-x)``, to the last digit at any ``x`` (``F.softplus`` drops terms above 20)."""
    return -F.logsigmoid(-x)


def log_sigmoid(x: Tensor) -> Tensor:
    """``-log(1 + e^-x)``."""
    return F.logsigmoid(x)


def smoothed_softplus(z: Tensor, label_smoothing: float | Tensor) -> Tensor:
    """``(1 - eps) softplus(-z) + eps softplus(z)``: the logistic loss of labels that are wrong with probability ``eps``."""
    return (1.0 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + e^-x)``."""
    return torch.sigmoid(x)


def relu(x: Tensor) -> Tensor:
    """``max(0, x)``, with derivative 0 at the kink."""
    return torch.relu(x)


def clamped_exp(x: Tensor) -> Tensor:
    """``e^min(x, MAX_EXPONENT)``."""
    return torch.exp(torch.clamp(x, max=MAX_EXPONENT))


def clamped_expm1(x: Tensor) -> Tensor:
    """``e^min(x, MAX_EXPONENT) - 1``, to the last digit near 0."""
    return torch.expm1(torch.clamp(x, max=MAX_EXPONENT))


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - e^x)`` for ``x < 0``; at ``x = 0`` that of -1e-30, so that a certain token gives no infinity."""
    x = torch.clamp(x, max=-1e-30)
    near = x > -math.log(2.0)
    # Each branch sees an argument that is safe for it, so that the branch not taken has no NaN derivative.
    small = torch.where(near, x, torch.full_like(x, -1.0))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def bernoulli_kl(g: Tensor, z: Tensor) -> Tensor:
    """``KL(sigmoid(g) || sigmoid(z))``.

    Written as ``q (log q - log p) + (1 - q) (log (1 - q) - log (1 - p))``: the shorter ``q (g - z) + softplus(z) - softplus(g)`` takes the
    difference of numbers as large as ``g``.
    """
    first = torch.sigmoid(g) * (F.logsigmoid(g) - F.logsigmoid(z))
    return first + torch.sigmoid(-g) * (F.logsigmoid(-g) - F.logsigmoid(-z))


def log_of(x: float | Tensor) -> float | Tensor:
    """Natural logarithm of a hyper-parameter."""
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)
