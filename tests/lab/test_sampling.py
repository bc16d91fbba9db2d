"""Stochastic DPO: the sampler, the labels and the update, then the orderings that the lab claims."""

import numpy as np
import pytest

from fastpref import lab
from fastpref.lab import sampling
from fastpref.lab.experiment_offline_online import exact_distances, measure, references

SMALL = lab.Instance([0.0, 0.7, -0.4], tau=0.5, log_reference=[0.2, 0.0, -1.0])


def test_pairs_and_labels_have_the_right_frequencies():
    behaviour = np.stack([SMALL.log_prior, [-3.0, 0.0, 1.0]])
    uniforms = np.random.default_rng(0).random((3, 2, 200_000))
    first, second, u = sampling._pairs(sampling._cumulative(behaviour), uniforms)
    for row, logits in enumerate(behaviour):
        p = np.exp(lab.targets.log_softmax(logits))
        for side in (first, second):
            np.testing.assert_allclose(np.bincount(side[row], minlength=3) / side.shape[1], p, atol=0.005)
    chosen, rejected = sampling._label(SMALL, first, second, u)
    met = (first == 1) & (second == 2)
    wins = (met & (chosen == 1)).sum() / met.sum()
    assert wins == pytest.approx(SMALL.preference[1, 2], abs=0.01)
    np.testing.assert_array_equal(np.sort([chosen, rejected], axis=0), np.sort([first, second], axis=0))


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_extreme_uniforms_stay_in_range(u):
    cumulative = sampling._cumulative(np.zeros((6, 4)))
    first, _, _ = sampling._pairs(cumulative, np.full((3, 6, 1), u))
    np.testing.assert_array_equal(first, np.full((6, 1), 0 if u == 0 else 3))


def test_one_step_is_the_gradient_of_the_batch():
    """Four steps, the least allowed: the last one alone is averaged, so it is the result."""
    lr, rows, batch, steps = 0.3, (5, 6), 8, 4
    found = lab.sampled_dpo(SMALL, "fresh", seeds=rows, lr=lr, steps=steps, batch_size=batch)
    for row, seed in zip(found, rows, strict=True):
        uniforms = np.random.default_rng(seed).random((steps, 3, batch))
        cumulative = np.exp(SMALL.log_prior).cumsum()
        theta = SMALL.log_prior.copy()
        for step in range(steps):
            gradient = np.zeros(3)
            for u1, u2, u3 in uniforms[step].T:
                y1, y2 = (int((cumulative < u).sum()) for u in (u1, u2))
                w, loser = (y1, y2) if u3 < SMALL.preference[y1, y2] else (y2, y1)
                h = SMALL.log_ratio(theta)
                push = SMALL.tau * lab.targets.sigmoid(-SMALL.tau * (h[w] - h[loser]))
                gradient[w] -= push / batch
                gradient[loser] += push / batch
            theta = theta - lr * (1.0 if step < steps // 2 else 0.1) * gradient
        np.testing.assert_allclose(row, theta, atol=1e-12)


@pytest.mark.parametrize("source", [50, "fresh", "online"])
def test_a_seed_does_not_depend_on_its_neighbours(source):
    option = {"lr": 0.5, "steps": 600, "batch_size": 4}
    together = lab.sampled_dpo(SMALL, source, seeds=(0, 1, 2), **option)
    np.testing.assert_allclose(lab.sampled_dpo(SMALL, source, seeds=(1,), **option)[0], together[1], atol=1e-12)


def test_many_samples_reach_the_target():
    for source in ("fresh", "online"):
        theta = lab.sampled_dpo(SMALL, source, seeds=(0,), lr=1.0, steps=3000, batch_size=256)
        assert SMALL.distance(theta)[0] < 0.02


def test_one_pair_is_not_enough():
    theta = lab.sampled_dpo(SMALL, 1, seeds=(0,), lr=1.0, steps=400)
    moved = np.abs(theta[0] - SMALL.log_prior) > 1e-12
    assert moved.sum() in (0, 2)  # one comparison moves two logits (none, if it compares a response with itself)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (0, {}, "source.*found 0"),
        ("offline", {}, "source.*'offline'"),
        ("fresh", {"steps": 3}, "steps.*at least 4.*3"),
        ("fresh", {"seeds": ()}, "seeds.*at least 1"),
        ("fresh", {"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments(source, options, words):
    with pytest.raises(ValueError, match=words):
        lab.sampled_dpo(SMALL, source, **{"seeds": (0,), "lr": 1.0, **options})


def test_more_data_is_closer_and_online_is_closest_under_an_adverse_reference():
    for name, instance in references().items():
        sources = ["offline N = 200", "offline N = 2000", "offline N = 20000", "fresh", "online"]
        tv = {s: d.mean() for s, d in measure(instance, range(3), sources=sources).items()}
        assert tv["offline N = 200"] > tv["offline N = 2000"] > tv["offline N = 20000"] > tv["fresh"]
        if name == "adverse":
            assert tv["online"] < tv["fresh"] / 3


def test_slowness_and_noise_are_told_apart():
    fresh, online = exact_distances(references()["adverse"])
    assert fresh == pytest.approx(0.199, abs=5e-4)
    assert online == pytest.approx(0.030, abs=5e-4)
