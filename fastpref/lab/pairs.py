"""Which pairs are compared: weights ``[n, n]`` over ordered pairs that sum to 1, and the comparison graph that they span.

The graph's Laplacian ``sum_ij W_ij (e_i - e_j)(e_i - e_j)^T`` is, up to a factor, the Hessian of RDA everywhere and of PRA at its optimum:
its second eigenvalue is the rate of convergence, its components are what the data can identify (arXiv 2502.03095).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .targets import Array


def uniform(n: int) -> Array:
    """Every ordered pair of different responses alike, ``[n, n]``."""
    _require_size(n)
    return np.asarray((1.0 - np.eye(n)) / (n * (n - 1)))


def star(n: int, center: int) -> Array:
    """``center`` against each other response, ``[n, n]``."""
    _require_size(n)
    if not -n <= center < n:
        raise ValueError(f"center: expected a response in [-{n}, {n}), found {center}")
    weights = np.zeros((n, n))
    weights[center] = 1.0 / (n - 1)
    weights[center, center] = 0.0
    return weights


def path(n: int) -> Array:
    """Each response against the next, ``[n, n]``."""
    _require_size(n)
    return np.asarray(np.eye(n, k=1) / (n - 1))


def product(p: npt.ArrayLike, *, diagonal: bool = True) -> Array:
    """Two independent draws from ``p [..., n]``: weights ``[..., n, n]``. ``diagonal=False`` drops pairs of equal responses and renormalises."""
    mu = np.asarray(p, dtype=np.float64)
    weights = mu[..., :, None] * mu[..., None, :]
    if not diagonal:
        weights = weights * (1.0 - np.eye(mu.shape[-1]))
        weights = weights / weights.sum(axis=(-2, -1), keepdims=True)
    return np.asarray(weights)


def laplacian(weights: npt.ArrayLike) -> Array:
    """The Laplacian ``[..., n, n]`` of the comparison graph, summed over ordered pairs."""
    w = np.asarray(weights, dtype=np.float64)
    both = w + np.swapaxes(w, -1, -2)
    return np.asarray(both.sum(axis=-1)[..., :, None] * np.eye(w.shape[-1]) - both)


def spectrum(weights: npt.ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues ``[..., n]``, ascending, and eigenvectors (columns, ``[..., n, n]``) of the Laplacian."""
    values, vectors = np.linalg.eigh(laplacian(weights))
    return values, vectors


def lambda_2(weights: npt.ArrayLike) -> Array:
    """The Laplacian's second eigenvalue, ``[...]``; 0 (up to rounding) if the graph is disconnected."""
    return spectrum(weights)[0][..., 1]


def components(weights: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The component of each response, ``[n]`` int64: 0, 1, ... in the order of the smallest member. ``weights`` is ``[n, n]``."""
    w = np.asarray(weights, dtype=np.float64)
    linked = (w + w.T) > 0
    labels = np.full(len(w), -1)
    for start in range(len(w)):
        if labels[start] >= 0:
            continue
        label, frontier = labels.max() + 1, {start}
        while frontier:
            labels[list(frontier)] = label
            frontier = {int(j) for i in frontier for j in np.flatnonzero(linked[i]) if labels[j] < 0}
    return labels


def _require_size(n: int) -> None:
    if n < 2:
        raise ValueError(f"n: expected at least 2 responses, found {n}")
