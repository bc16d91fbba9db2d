"""Gradient descent, its record, and where it ends."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from fastpref import lab
from fastpref.lab import limits, pairs

A = lab.Instance.random()
EVERYWHERE = pairs.uniform(6)


def test_steps_and_snapshots():
    end = lab.descend(A, lab.BDA(), lr=0.5, steps=3, snapshots=(0, 2, 3, 9))
    theta = A.log_prior
    path = [theta]
    for _ in range(3):
        theta = theta - 0.5 * lab.BDA().gradient(A, theta)
        path.append(theta)
    assert list(end.snapshots) == [0, 2, 3]
    for step, found in end.snapshots.items():
        np.testing.assert_array_equal(found, path[step])
    np.testing.assert_array_equal(end.theta, path[3])
    assert end.steps == 3
    assert lab.descend(A, lab.BDA(), lr=0.5, steps=0).steps == 0


def test_early_stop_fills_the_later_snapshots():
    end = lab.descend(A, lab.RDA(EVERYWHERE), lr=0.5, steps=5000, tolerance=1e-15, snapshots=(10, 5000))
    assert end.steps < 1000
    np.testing.assert_array_equal(end.snapshots[5000], end.theta)
    assert A.distance(end.theta) < 1e-12


def test_linear_policy_descends_in_its_weights():
    features = np.random.default_rng(0).normal(size=(6, 2))
    end = lab.descend(A, lab.BDA(), lr=0.1, steps=1, features=features, start=[0.3, -0.2])
    start = np.array([0.3, -0.2])
    gradient = lab.BDA().gradient(A, features @ start) @ features
    np.testing.assert_allclose(end.weights, start - 0.1 * gradient, atol=1e-15)
    np.testing.assert_allclose(end.theta, features @ end.weights, atol=1e-15)


def test_batched_prompts_descend_alone():
    generator = np.random.default_rng(2)
    reward = generator.normal(size=(3, 6))
    together = lab.descend(lab.Instance(reward, tau=0.7), lab.PRA(EVERYWHERE), lr=2.0, steps=50)
    for row in range(3):
        alone = lab.descend(lab.Instance(reward[row], tau=0.7), lab.PRA(EVERYWHERE), lr=2.0, steps=50)
        np.testing.assert_allclose(together.theta[row], alone.theta, atol=1e-13)


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match=r"not finite after \d+ steps: lr 50"):
        lab.descend(A, lab.RDA(EVERYWHERE), lr=50.0, steps=5000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.0, "steps": 1}, "lr"),
        ({"lr": 1.0, "steps": -1}, "steps.*-1"),
        ({"lr": 1.0, "steps": 1, "start": [0.0, 1.0]}, r"start.*6.*\(2,\)"),
        ({"lr": 1.0, "steps": 1, "features": np.ones((5, 2))}, r"features.*6.*\(5, 2\)"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        lab.descend(A, lab.BDA(), **options)


def test_steps_to_target_counts_from_zero():
    assert lab.steps_to_target(A, lab.BDA(), lr=1.0, distance=1.0) == 0
    assert lab.steps_to_target(A, lab.BDA(), lr=1.0, distance=1e-6, max_steps=3) is None
    count = lab.steps_to_target(A, lab.BDA(), lr=1.0, distance=1e-2)
    ends = [A.distance(lab.descend(A, lab.BDA(), lr=1.0, steps=s).theta) for s in (count - 1, count)]
    assert ends[1] <= 1e-2 < ends[0]


def test_component_limit_of_a_connected_graph_is_the_target():
    np.testing.assert_allclose(A.distance(limits.component_limit(A, EVERYWHERE, np.zeros(6))), 0, atol=1e-15)
    with pytest.raises(ValueError, match=r"start.*\(6,\)"):
        limits.component_limit(A, EVERYWHERE, np.zeros(5))


def test_stationary_weights():
    everything = np.eye(6)  # as many features as responses: realisable
    w = limits.stationary_weights(A, lab.PRA(EVERYWHERE), everything, start=A.log_prior)
    assert A.distance(w) < 1e-12
    with pytest.raises(ArithmeticError, match="no stationary point"):
        limits.stationary_weights(A, lab.BDA(), everything, start=A.log_prior, steps=0)


@pytest.mark.parametrize("module", ["fastpref.lab", "fastpref.lab.descent", "fastpref.lab.instance"])
def test_examples_run(module):
    module = importlib.import_module(module)
    results = doctest.testmod(module, extraglobs={"BDA": lab.BDA})
    assert results.attempted > 0
    assert results.failed == 0


def test_python_block_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "lab.md"
    if not page.exists():
        pytest.skip("the documentation is not part of this install")
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(block, "lab.md", "exec"), names)
    assert names["instance"].distance(names["end"].theta) < 1e-12
