"""Closed-form targets and measures, on numbers worked out by hand or by torch."""

import numpy as np
import pytest
import torch

from fastpref.lab import Instance, targets


def test_golden_targets():
    reward, reference = [0, 0.25, 0.5, 0.75, 1], np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    instance = Instance(reward, tau=0.5, log_reference=np.log(reference))
    np.testing.assert_allclose(instance.target, [0.188681, 0.233312, 0.192333, 0.211402, 0.174272], atol=5e-7)
    np.testing.assert_allclose(0.5 * instance.log_partition, 0.37570341, atol=5e-9)
    free = instance.prior_free()
    np.testing.assert_allclose(free.target, [0.058012, 0.095646, 0.157694, 0.259993, 0.428656], atol=5e-7)
    np.testing.assert_allclose(0.5 * free.log_partition, 1.42355082, atol=5e-9)


def test_measures_against_torch():
    generator = np.random.default_rng(0)
    lp, lq = (targets.log_softmax(generator.normal(size=(3, 6))) for _ in range(2))
    p, q = (torch.distributions.Categorical(logits=torch.tensor(x)) for x in (lp, lq))
    np.testing.assert_allclose(targets.entropy(lp), p.entropy(), atol=1e-12)
    np.testing.assert_allclose(targets.kl_divergence(lp, lq), torch.distributions.kl_divergence(p, q), atol=1e-12)
    np.testing.assert_allclose(targets.total_variation(np.exp(lp), np.exp(lq)), 0.5 * (p.probs - q.probs).abs().sum(-1))
    z = np.array([-800.0, -3.0, 0.0, 40.0, 800.0])
    np.testing.assert_allclose(targets.sigmoid(z), torch.sigmoid(torch.tensor(z)), atol=1e-15)
    np.testing.assert_allclose(targets.softplus(z), torch.nn.functional.softplus(torch.tensor(z)), atol=1e-12)


def test_low_temperature_is_greedy_and_its_distance_is_the_missing_mass():
    reward = [0.3, 1.0, 1.0, -0.5]
    np.testing.assert_array_equal(targets.greedy(reward), [0, 0.5, 0.5, 0])
    cold = np.exp(targets.log_boltzmann(reward, 0.01))
    np.testing.assert_allclose(cold, targets.greedy(reward), atol=1e-12)
    warm = np.exp(targets.log_boltzmann(reward, 0.8))
    np.testing.assert_allclose(targets.total_variation(warm, targets.greedy(reward)), 1 - warm[1] - warm[2])


@pytest.mark.parametrize("seed", range(4))
def test_forward_kl_tilt_is_the_stationary_point(seed):
    generator = np.random.default_rng(seed)
    reward, tau = generator.normal(size=(2, 5)), 0.4
    log_prior = targets.log_softmax(generator.normal(size=(2, 5)))
    p = targets.forward_kl_tilt(reward, tau, log_prior)
    np.testing.assert_allclose(p.sum(axis=-1), 1, atol=1e-12)
    level = reward + tau * np.exp(log_prior) / p  # d/dpi of E r - tau KL(prior || pi) is the same for every response
    np.testing.assert_allclose(level, level[:, :1] * np.ones(5), atol=1e-10)
    assert (level[:, 0] > reward.max(axis=-1)).all()


def test_reference_is_normalised():
    instance = Instance([0.0, 1.0], tau=1.0, log_reference=[5.0, 5.0])
    np.testing.assert_allclose(instance.log_prior, np.log([0.5, 0.5]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reward": [1.0], "tau": 1.0}, ValueError, r"reward.*at least 2 responses.*\(1,\)"),
        ({"reward": 1.0, "tau": 1.0}, ValueError, "reward"),
        ({"reward": [0.0, np.nan], "tau": 1.0}, ValueError, "reward: expected finite"),
        ({"reward": [0.0, 1.0], "tau": 0.0}, ValueError, "tau.*0"),
        ({"reward": [0.0, 1.0], "tau": "1"}, TypeError, "tau"),
        (
            {"reward": [0.0, 1.0], "tau": 1.0, "log_reference": [0.0, 0.0, 0.0]},
            ValueError,
            r"log_reference.*\(2,\).*\(3,\)",
        ),
        (
            {"reward": [0.0, 1.0], "tau": 1.0, "log_reference": [0.0, -np.inf]},
            ValueError,
            "log_reference: expected finite",
        ),
    ],
)
def test_wrong_instances(options, error, words):
    with pytest.raises(error, match=words):
        Instance(options.pop("reward"), **options)
