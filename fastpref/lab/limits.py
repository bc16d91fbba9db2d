"""Where gradient descent ends when it cannot reach the target: missing coverage, or a policy without the capacity (arXiv 2502.03095)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .instance import Instance
from .losses import Update
from .pairs import components
from .targets import Array


def component_limit(instance: Instance, weights: npt.ArrayLike, start: npt.ArrayLike) -> Array:
    """The limit ``[n]`` of gradient descent on RDA or PRA with the pair weights ``weights [n, n]``, from the logits ``start [n]``.

    Descent conserves the sum of the logits in every component of the comparison graph and identifies the differences inside it, so
    ``theta -> s + mean over the component of (start - s)`` with ``s = log_prior + r / tau``. A response in no pair keeps its logit.

    Raises:
        ValueError: ``start`` or ``weights`` does not fit the instance.
    """
    theta = np.array(start, dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    for name, array, shape in (("start", theta, (instance.n,)), ("weights", w, (instance.n, instance.n))):
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
    goal = instance.log_prior + instance.reward / instance.tau
    labels = components(w)
    for label in range(labels.max() + 1):
        inside = labels == label
        theta[inside] = goal[inside] + (theta[inside] - goal[inside]).mean()
    return theta


def stationary_weights(
    instance: Instance, update: Update, features: npt.ArrayLike, *, start: npt.ArrayLike, steps: int = 100
) -> Array:
    """The weights ``[k]`` at which a linear policy ``theta = w @ features.T`` no longer moves: what descent reaches after any number of steps.

    Damped Newton steps on the direction itself, which need not be the gradient of a loss; the Jacobian is taken by central differences. Where there are
    several such points, the one found is near ``start``.

    Args:
        instance: rewards ``[n]``, reference, temperature.
        update: a loss of :mod:`~fastpref.lab.losses`, or anything with its ``gradient``.
        features: ``[n, k]``.
        start: weights ``[k]``, for example where a descent got to.
        steps: the most Newton steps taken.

    Raises:
        ArithmeticError: the search stopped where a component of the direction is still above 1e-12.
    """
    phi = np.asarray(features, dtype=np.float64)
    w = np.array(start, dtype=np.float64)

    def direction(w: Array) -> Array:
        return np.asarray(update.gradient(instance, w @ phi.T) @ phi)

    epsilon = 1e-6 * np.eye(len(w))
    residual = direction(w)
    for _ in range(steps):
        size = np.abs(residual).max()
        if size <= 1e-15:
            break
        jacobian = np.stack([(direction(w + e) - direction(w - e)) / 2e-6 for e in epsilon], axis=1)
        move = np.linalg.lstsq(jacobian, residual, rcond=None)[0]
        scale = 1.0
        while scale > 1e-6 and not np.abs(direction(w - scale * move)).max() < size:
            scale *= 0.5
        if scale <= 1e-6:  # no shorter step helps: rounding
            break
        w = w - scale * move
        residual = direction(w)
    if not np.abs(residual).max() <= 1e-12:
        raise ArithmeticError(f"no stationary point found: at weights {w} the direction is still {residual}")
    return w
