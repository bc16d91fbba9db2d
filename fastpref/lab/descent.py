"""Plain gradient descent on a tabular policy: the dynamics that the framework's statements about rates are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import require_positive
from .instance import Instance
from .losses import Update
from .targets import Array, log_softmax

ROUNDING = 5e-16
"""Logits of order 1 that move by less than this in a step are where rounding keeps them: a ``tolerance`` to stop at."""

_CHECK_EVERY = 128


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended.

    Attributes:
        theta: the last logits, ``[..., n]``.
        steps: how many steps were taken (fewer than asked for after an early stop).
        snapshots: the logits at the steps that were asked for; after an early stop the last ones stand for the later steps.
        weights: the last weights ``[..., k]`` of a linear policy, else None.
    """

    theta: Array
    steps: int
    snapshots: dict[int, Array]
    weights: Array | None = None

    @property
    def policy(self) -> Array:
        """The last probabilities, ``[..., n]``."""
        return np.asarray(np.exp(log_softmax(self.theta)))


def descend(
    instance: Instance,
    update: Update,
    *,
    lr: float,
    steps: int,
    start: npt.ArrayLike | None = None,
    features: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
    snapshots: Iterable[int] = (),
) -> Descent:
    """``steps`` steps of gradient descent with a fixed learning rate.

    Args:
        instance: rewards, reference, temperature.
        update: a loss of :mod:`~fastpref.lab.losses`, or anything with its ``gradient``.
        lr: learning rate, above 0.
        steps: at least 0.
        start: logits ``[..., n]``, default the instance's log-prior (the reference, or 0). With ``features`` the weights ``[..., k]``, default 0.
        features: ``[n, k]``: the policy is then ``theta = w @ features.T`` and the descent is in ``w``.
        tolerance: stop once no logit (weight) moves more than this in a step. The default stops only at an exact fixed point.
        snapshots: steps after which the logits are kept; 0 is the start.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: the logits stopped being finite; the learning rate is too large.

    Example:
        >>> instance = Instance.random()
        >>> end = descend(instance, BDA(), lr=1.0, steps=2000)
        >>> bool(instance.distance(end.theta) < 1e-12)
        True
    """
    require_positive("lr", lr)
    if steps < 0:
        raise ValueError(f"steps: expected at least 0, found {steps}")
    wanted = {s for s in snapshots if 0 <= s <= steps}
    phi = None if features is None else np.asarray(features, dtype=np.float64)
    if phi is not None and (phi.ndim != 2 or phi.shape[0] != instance.n):
        raise ValueError(f"features: expected [{instance.n}, k], found shape {phi.shape}")
    width = instance.n if phi is None else phi.shape[1]
    if start is None:
        x = instance.log_prior.copy() if phi is None else np.zeros((*instance.reward.shape[:-1], width))
    else:
        x = np.array(start, dtype=np.float64)
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"start: expected [..., {width}], found shape {x.shape}")

    def logits(x: Array) -> Array:
        return x if phi is None else np.asarray(x @ phi.T)

    kept = {0: logits(x)} if 0 in wanted else {}
    done = 0
    with np.errstate(over="ignore", invalid="ignore"):  # a divergence is found below
        while done < steps:
            gradient = update.gradient(instance, logits(x))
            move = lr * (gradient if phi is None else gradient @ phi)
            x = x - move
            done += 1
            if done in wanted:
                kept[done] = logits(x)
            if done % _CHECK_EVERY == 0 or done == steps:
                largest = np.abs(move).max()
                if not np.isfinite(largest):
                    raise FloatingPointError(f"the logits are not finite after {done} steps: lr {lr} is too large")
                if largest <= tolerance:
                    break
    theta = logits(x)
    kept.update({s: theta for s in wanted if s > done})
    return Descent(theta, done, dict(sorted(kept.items())), None if phi is None else x)


def steps_to_target(
    instance: Instance, update: Update, *, lr: float, distance: float, max_steps: int = 100_000
) -> int | None:
    """Steps from the log-prior until the total variation to the target is at most ``distance``; None if ``max_steps`` do not suffice."""
    require_positive("lr", lr)
    theta = instance.log_prior
    for step in range(max_steps + 1):
        if (instance.distance(theta) <= distance).all():
            return step
        theta = theta - lr * update.gradient(instance, theta)
    return None


def contraction(instance: Instance, update: Update, direction: npt.ArrayLike, *, lr: float, epsilon: float) -> float:
    """The factor by which one step shrinks the error ``epsilon * direction [n]`` of logits at the target."""
    v = np.asarray(direction, dtype=np.float64)
    theta = instance.log_target + epsilon * v
    after = theta - lr * update.gradient(instance, theta) - instance.log_target
    return float(after @ v / (epsilon * (v @ v)))
