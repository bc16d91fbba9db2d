"""The distributions that preference algorithms converge to, in closed form, and the measures by which they are compared.

Everything is float64 and works on the last axis: ``reward [..., n]`` over the ``n`` responses of a prompt, ``log_prior [..., n]`` the
reference's log-probabilities (0, the default, is the prior-free case). Formulas: the UDRRA framework, arXiv 2502.03095.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def log_softmax(logits: npt.ArrayLike) -> Array:
    """Log-probabilities ``[..., n]`` of ``logits [..., n]``."""
    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def sigmoid(z: npt.ArrayLike) -> Array:
    """The logistic function, without overflow; its absolute error is that of float64."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * np.asarray(z, dtype=np.float64)))


def softplus(z: npt.ArrayLike) -> Array:
    """``log(1 + exp(z)) = -log sigmoid(-z)``, without overflow."""
    return np.asarray(np.logaddexp(0.0, np.asarray(z, dtype=np.float64)))


def log_partition(reward: npt.ArrayLike, tau: float, log_prior: npt.ArrayLike = 0.0) -> Array:
    """``log Z = log sum_y prior(y) exp(r(y) / tau)``, ``[...]``."""
    x = np.asarray(log_prior, dtype=np.float64) + np.asarray(reward, dtype=np.float64) / tau
    top = x.max(axis=-1)
    return np.asarray(top + np.log(np.exp(x - top[..., None]).sum(axis=-1)))


def log_boltzmann(reward: npt.ArrayLike, tau: float, log_prior: npt.ArrayLike = 0.0) -> Array:
    """Log-probabilities ``[..., n]`` of ``prior * exp(r / tau) / Z``: the target of BDA, RA, RDA and PRA alike."""
    return log_softmax(np.asarray(log_prior, dtype=np.float64) + np.asarray(reward, dtype=np.float64) / tau)


def greedy(reward: npt.ArrayLike) -> Array:
    """Probabilities ``[..., n]`` of the uniform distribution over the best responses: the limit of Boltzmann for ``tau -> 0``."""
    r = np.asarray(reward, dtype=np.float64)
    best = (r == r.max(axis=-1, keepdims=True)).astype(np.float64)
    return np.asarray(best / best.sum(axis=-1, keepdims=True))


def forward_kl_tilt(reward: npt.ArrayLike, tau: float, log_prior: npt.ArrayLike = 0.0) -> Array:
    """Probabilities ``[..., n]`` of ``tau * prior / (lambda - r)``, the maximiser of ``E r - tau * KL(prior || pi)``.

    ``lambda`` above ``max r`` makes them sum to 1; it is found by bisection. ``log_prior`` is normalised first.
    """
    r, prior = np.broadcast_arrays(np.asarray(reward, dtype=np.float64), np.asarray(log_prior, dtype=np.float64))
    prior = np.exp(log_softmax(prior))
    best = r.max(axis=-1, keepdims=True)
    # The sum falls with lambda: it is at least 1 where the best response alone has probability 1, at most 1 at best + tau.
    low = best + tau * np.where(r == best, prior, 0.0).max(axis=-1, keepdims=True)
    high = best + tau
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = (tau * prior / (middle - r)).sum(axis=-1, keepdims=True) > 1.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray(tau * prior / (high - r))


def entropy(log_p: npt.ArrayLike) -> Array:
    """Entropy ``[...]`` in nats of normalised log-probabilities ``[..., n]``."""
    lp = np.asarray(log_p, dtype=np.float64)
    return np.asarray(-(np.exp(lp) * lp).sum(axis=-1))


def kl_divergence(log_p: npt.ArrayLike, log_q: npt.ArrayLike) -> Array:
    """``KL(p || q)``, ``[...]``, of normalised log-probabilities ``[..., n]``."""
    lp, lq = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    return np.asarray((np.exp(lp) * (lp - lq)).sum(axis=-1))


def total_variation(p: npt.ArrayLike, q: npt.ArrayLike) -> Array:
    """Total variation ``[...]``, half the L1 distance, of probabilities ``[..., n]``."""
    return np.asarray(0.5 * np.abs(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64)).sum(axis=-1))


def reward_gap(reward: npt.ArrayLike, p: npt.ArrayLike) -> Array:
    """``max r - E_p r``, ``[...]``: what a policy with probabilities ``p [..., n]`` gives away."""
    r = np.asarray(reward, dtype=np.float64)
    return np.asarray(r.max(axis=-1) - (np.asarray(p, dtype=np.float64) * r).sum(axis=-1))


def reward_gap_bounds(reward: npt.ArrayLike, tau: float, log_prior: npt.ArrayLike | None = None) -> tuple[Array, ...]:
    """Upper bounds ``[...]`` on the reward gap of the Boltzmann target, the tightest first.

    Prior-free (``log_prior`` is None): ``tau * H(target)``, then ``tau * log n``. With a reference: ``tau * log(1 / prior(y*))`` alone,
    where ``y*`` is the best response (the likeliest of several).
    """
    r = np.asarray(reward, dtype=np.float64)
    if log_prior is None:
        size = np.full(r.shape[:-1], tau * np.log(r.shape[-1]))
        return tau * entropy(log_boltzmann(r, tau)), np.asarray(size)
    best = np.where(r == r.max(axis=-1, keepdims=True), log_softmax(log_prior), -np.inf)
    return (np.asarray(-tau * best.max(axis=-1)),)
