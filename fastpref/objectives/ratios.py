"""Importance ratios and sampled KL estimates, shared by the policy-gradient losses. Elementwise; nothing overflows, in float32 too.

A KL estimate is written in ``d = log pi_ref(y) - log pi(y)`` of a sample ``y``. All three have the expectation ``KL(pi || pi_ref)`` to second
order (``k1`` and ``k3`` exactly), but as *losses*, differentiated at fixed samples of ``pi``, they are different things:

====  ===================  =============  ========================================================================
 \\    estimate             d/dlp          fixed point of the reward's policy gradient plus tau times it
====  ===================  =============  ========================================================================
k1    ``-d``               ``1``          no regularisation (0 in expectation): the greedy optimum
k2    ``d^2 / 2``          ``-d``         ``pi_ref exp(r / tau) / Z``
k3    ``e^d - d - 1``      ``1 - e^d``    ``tau pi_ref / (lambda - r)``, the forward-KL tilt: not Boltzmann
====  ===================  =============  ========================================================================

Multiplied by the importance ratio (``k2``: detached) all three have the gradient of ``KL(pi || pi_ref)``, and the Boltzmann fixed point.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .base import BOLTZMANN

KLEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS = ("k1", "k2", "k3")

GREEDY = "uniform over argmax r"
"""The target where nothing regularises."""

FORWARD_KL_TILT = "forward-KL tilt tau pi_ref / (lambda - r), tau = beta, lambda from normalisation"
"""The target of ``k3`` as a loss without importance ratio."""

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before ``exp``, as verl does: no ratio above 4.9e8, none below 2.1e-9."""


def importance_ratio(log_ratio: Tensor) -> Tensor:
    """``pi / pi_old`` from its logarithm, clamped to +-20 (derivative 0 outside)."""
    return torch.exp(torch.clamp(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def kl_estimate(kind: KLEstimator, d: Tensor) -> Tensor:
    """One of the three; above ``d = 20`` ``k3`` goes on along its tangent, so that its pull to the reference stays."""
    if kind == "k1":
        return -d
    if kind == "k2":
        return 0.5 * d * d
    capped = torch.clamp(d, max=MAX_LOG_RATIO)
    return torch.expm1(capped) + torch.exp(capped) * (d - capped) - d


def kl_target(kind: KLEstimator, corrected: bool) -> str:
    """What a policy gradient with that estimate as a loss converges to; ``corrected``: times the importance ratio."""
    if corrected or kind == "k2":
        return BOLTZMANN
    return FORWARD_KL_TILT if kind == "k3" else GREEDY


def clipped(
    ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None, center: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Where PPO's clip holds the loss constant: ``(low, high)``, bool. At the bounds themselves it does not.

    Args:
        ratio: ``pi / pi_old`` around ``center`` 1, or its logarithm around 0.
        advantages: same shape.
        epsilon: distance of the lower bound from ``center``.
        epsilon_high: of the upper; ``None``: the same.
        center: 1 or 0.
    """
    low = (ratio < center - epsilon) & (advantages < 0)
    high = (ratio > center + (epsilon if epsilon_high is None else epsilon_high)) & (advantages > 0)
    return low, high


def clipped_ratio(
    ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None, center: float = 1.0
) -> Tensor:
    """The ratio whose product with the advantage is ``min(R A, clip(R) A)``."""
    low, high = clipped(ratio, advantages, epsilon, epsilon_high, center)
    upper = center + (epsilon if epsilon_high is None else epsilon_high)
    # Bounds enter by arithmetic, not as constants of a `where`: they may be numbers or tensors.
    held = torch.where(low, torch.zeros_like(ratio) + (center - epsilon), ratio)
    return torch.where(high, torch.zeros_like(ratio) + upper, held)


def capped_ratio(ratio: Tensor, advantages: Tensor, cap: float) -> Tensor:
    """``min(R, cap)`` where the advantage is negative: the dual clip, and the upper bound of the two-sided one."""
    return torch.where((ratio > cap) & (advantages < 0), torch.zeros_like(ratio) + cap, ratio)
