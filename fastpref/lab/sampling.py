"""Stochastic DPO on sampled, labelled pairs: the same loss with three sources of pairs (arXiv 2502.03095).

Offline: a data set drawn and labelled once. Fresh: new pairs from the behaviour policy in every batch. Online: new pairs from the
policy being trained. Several seeds run side by side as rows of one array; each has a generator of its own, so the result of a seed does not depend on
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import require_positive
from .instance import Instance
from .targets import Array, log_softmax, sigmoid

Source: TypeAlias = int | Literal["fresh", "online"]
_BLOCK = 250  # steps whose random numbers are drawn at once: 250 x 64 x 3 float64 a seed are 0.4 MB


def sampled_dpo(
    instance: Instance,
    source: Source,
    *,
    seeds: Sequence[int],
    lr: float,
    steps: int = 4000,
    batch_size: int = 64,
    log_behaviour: npt.ArrayLike | None = None,
) -> Array:
    """DPO by stochastic gradient descent from the reference, with Bradley-Terry-sampled hard labels.

    The learning rate falls to a tenth after half of the steps; the logits are averaged over the last quarter.

    Args:
        instance: rewards ``[n]`` (no batch axes), reference, temperature.
        source: the number of pairs of an offline data set, from which batches are drawn with replacement; or ``"fresh"``, or ``"online"``.
        seeds: one run each.
        lr: learning rate of the batch-mean gradient.
        steps: at least 4.
        batch_size: pairs a step; the two responses of a pair are independent draws.
        log_behaviour: logits ``[n]`` of the policy that offline and fresh pairs come from; default the instance's reference.

    Returns:
        Averaged logits, ``[len(seeds), n]``.

    Raises:
        ValueError: an argument is out of range.
    """
    require_positive("lr", lr)
    if instance.reward.ndim != 1:
        raise ValueError(f"instance: expected rewards [n], found shape {instance.reward.shape}")
    if source not in ("fresh", "online") and (isinstance(source, str) or source < 1):
        raise ValueError(f"source: expected a number of pairs, 'fresh' or 'online', found {source!r}")
    for name, value, least in (("steps", steps, 4), ("batch_size", batch_size, 1), ("seeds", len(seeds), 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, found {value}")
    rows, n = len(seeds), instance.n
    generators = [np.random.default_rng(seed) for seed in seeds]
    prior, tau = instance.log_prior, instance.tau
    behaviour = _cumulative(np.tile(prior if log_behaviour is None else log_behaviour, (rows, 1)))
    offset = n * np.arange(rows)[:, None]
    data = None
    if not isinstance(source, str):
        data = _label(instance, *_pairs(behaviour, np.stack([g.random((3, source)) for g in generators], axis=1)))

    theta = np.tile(prior, (rows, 1))
    mean, averaged = np.zeros_like(theta), steps // 4
    uniforms = np.empty((0,))
    for step in range(steps):
        if step % _BLOCK == 0:
            size = (min(_BLOCK, steps - step), 3, batch_size)
            uniforms = np.stack([g.random(size) for g in generators], axis=2)
        u = uniforms[step % _BLOCK]
        if data is not None:
            index = (u[0] * data[0].shape[-1]).astype(np.int64)
            chosen, rejected = (np.take_along_axis(side, index, axis=-1) for side in data)
        else:
            sampler = _cumulative(theta) if source == "online" else behaviour
            chosen, rejected = _label(instance, *_pairs(sampler, u))
        ratio = theta - prior  # the log-ratio up to a constant, which cancels in a margin
        margin = np.take_along_axis(ratio, chosen, axis=-1) - np.take_along_axis(ratio, rejected, axis=-1)
        push = (sigmoid(-tau * margin) * (tau / batch_size)).ravel()
        # Pair gradients sum to 0 over a pair: the softmax's share, pi * sum(a), vanishes, and a is the gradient in the logits.
        up = np.bincount((chosen + offset).ravel(), push, minlength=rows * n)
        down = np.bincount((rejected + offset).ravel(), push, minlength=rows * n)
        theta = theta + (lr if step < steps // 2 else 0.1 * lr) * (up - down).reshape(rows, n)
        if step >= steps - averaged:
            mean += theta / averaged
    return mean


def _cumulative(logits: npt.ArrayLike) -> Array:
    """Cumulative probabilities ``[rows, n]``, the last one exactly 1."""
    total = np.cumsum(np.exp(log_softmax(logits)), axis=-1)
    return np.asarray(total / total[:, -1:])


def _pairs(cumulative: Array, uniforms: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Two draws a pair by inversion, ``[rows, m]`` each, from ``uniforms [3, rows, m]``; the third uniform is handed on for the label."""
    rows, n = cumulative.shape
    # Row k lives in (k, k + 1]: one search serves all rows.
    shelf = np.arange(rows)[:, None]
    found = np.searchsorted((cumulative + shelf).ravel(), uniforms[:2] + shelf, side="right") - n * shelf
    found = np.minimum(found, n - 1)  # u + k may round up to k + 1
    return found[0], found[1], uniforms[2]


def _label(
    instance: Instance, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], u: Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Chosen and rejected, ``[rows, m]`` each, with the Bradley-Terry probability."""
    wins = u < instance.preference[first, second]
    return np.where(wins, first, second), np.where(wins, second, first)
