"""Pair weights and their graphs."""

import numpy as np
import pytest

from fastpref.lab import pairs


@pytest.mark.parametrize("n", [2, 5, 10])
def test_second_eigenvalues(n):
    assert pairs.lambda_2(pairs.uniform(n)) == pytest.approx(2 / (n - 1), abs=1e-12)
    for center in (0, n - 1):
        expected = 1 / (n - 1) if n > 2 else 2.0  # two responses: the star is the single edge
        assert pairs.lambda_2(pairs.star(n, center)) == pytest.approx(expected, abs=1e-12)
    assert pairs.lambda_2(pairs.path(n)) == pytest.approx((2 - 2 * np.cos(np.pi / n)) / (n - 1), abs=1e-12)


def test_weights_sum_to_one():
    mu = np.random.default_rng(0).dirichlet(np.ones(4), size=3)
    for weights in (pairs.uniform(4), pairs.star(4, 2), pairs.path(4)):
        assert weights.sum() == pytest.approx(1)
        assert np.diag(weights).sum() == 0
    for diagonal in (True, False):
        weights = pairs.product(mu, diagonal=diagonal)
        np.testing.assert_allclose(weights.sum(axis=(-2, -1)), 1)
        assert (np.trace(weights, axis1=-2, axis2=-1) > 0).all() == diagonal
    np.testing.assert_allclose(pairs.product(mu)[1], np.outer(mu[1], mu[1]))


def test_diagonal_does_not_enter_the_graph():
    mu = np.random.default_rng(0).dirichlet(np.ones(4))
    off = 1 - (mu**2).sum()
    np.testing.assert_allclose(
        pairs.laplacian(pairs.product(mu)), off * pairs.laplacian(pairs.product(mu, diagonal=False)), atol=1e-15
    )


def test_components_count_the_zero_eigenvalues():
    weights = np.zeros((7, 7))
    weights[4, 0], weights[0, 6], weights[2, 3] = 1, 1, 1
    labels = pairs.components(weights)
    np.testing.assert_array_equal(labels, [0, 1, 2, 2, 0, 3, 0])
    assert (pairs.spectrum(weights)[0] < 1e-12).sum() == labels.max() + 1
    assert pairs.lambda_2(weights) == pytest.approx(0, abs=1e-12)
    assert pairs.components(pairs.path(5)).max() == 0


def test_errors():
    with pytest.raises(ValueError, match=r"center.*found 4"):
        pairs.star(4, 4)
    with pytest.raises(ValueError, match=r"n: expected at least 2.*found 1"):
        pairs.uniform(1)
