"""The identities behind the scenarios, on random instances in float64."""

import numpy as np
import pytest

from fastpref import lab
from fastpref.lab import pairs, targets

SEEDS = range(5)
TOLERANCE = 1e-9


class Random:
    """A random instance, policy and data distribution."""

    def __init__(self, seed: int, n: int = 6) -> None:
        self.generator = np.random.default_rng(1000 + seed)
        self.tau = float(self.generator.uniform(0.3, 2.0))
        self.instance = lab.Instance(
            self.generator.normal(size=n), tau=self.tau, log_reference=self.generator.normal(size=n)
        )
        self.theta = self.generator.normal(size=n)
        self.log_p = targets.log_softmax(self.theta)
        self.p = np.exp(self.log_p)
        self.mu = self.generator.dirichlet(np.full(n, 2.0))
        self.h = self.instance.log_ratio(self.theta)


@pytest.fixture(params=SEEDS)
def case(request):
    return Random(request.param)


def close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_1_reward_is_the_targets_log_probability_up_to_a_constant(case):
    for instance in (case.instance, case.instance.prior_free()):
        close(instance.implicit_reward(instance.log_target), instance.reward)
    free = case.instance.prior_free()
    close(free.reward, case.tau * (free.log_target + np.log(np.exp(free.reward / case.tau).sum())))


@pytest.mark.parametrize("posterior", [False, True])
def test_1_reward_falls_with_the_temperature_by_its_variance(case, posterior):
    prior = case.instance.log_prior if posterior else 0.0
    reward, step = case.instance.reward, 1e-5

    def expected_reward(tau):
        return (np.exp(targets.log_boltzmann(reward, tau, prior)) * reward).sum()

    p = np.exp(targets.log_boltzmann(reward, case.tau, prior))
    variance = (p * reward**2).sum() - (p * reward).sum() ** 2
    slope = (expected_reward(case.tau + step) - expected_reward(case.tau - step)) / (2 * step)
    close(slope, -variance / case.tau**2, 1e-7)


def test_1_price_of_the_temperature_is_bounded(case):
    free = case.instance.prior_free()
    gap = targets.reward_gap(free.reward, free.target)
    tight, loose = targets.reward_gap_bounds(free.reward, case.tau)
    assert 0 <= gap <= tight <= loose
    close(loose, case.tau * np.log(free.n))
    (bound,) = targets.reward_gap_bounds(free.reward, case.tau, case.instance.log_prior)
    assert 0 <= targets.reward_gap(free.reward, case.instance.target) <= bound


def test_2_bda_is_the_kl_regularised_objective(case):
    instance = case.instance
    value = lab.BDA().value(instance, case.theta)
    objective = (case.p * instance.reward).sum() - case.tau * (case.p * case.h).sum()
    close(-case.tau * value, objective - case.tau * instance.log_partition)
    free = instance.prior_free()
    maximum_entropy = (case.p * free.reward).sum() + case.tau * targets.entropy(case.log_p)
    close(-case.tau * lab.BDA().value(free, case.theta), maximum_entropy - case.tau * free.log_partition)


@pytest.mark.parametrize("offset", [0.0, 1.7, -3.0])
def test_3_on_policy_regressions_are_policy_gradients(case, offset):
    bda = lab.BDA().gradient(case.instance, case.theta)
    ra = lab.RA(lab.ON_POLICY, log_z_offset=offset).gradient(case.instance, case.theta)
    rda = lab.RDA(lab.ON_POLICY).gradient(case.instance, case.theta)
    close(ra, 2 * case.tau**2 * bda)
    close(rda, 4 * case.tau**2 * bda)
    close(lab.PolicyGradient("k1_in_reward").gradient(case.instance, case.theta), case.tau * bda)
    close(lab.PolicyGradient("k2").gradient(case.instance, case.theta), case.tau * bda)


def test_4_rda_on_independent_draws_is_a_variance(case):
    u = case.instance.reward - case.tau * case.h
    variance = (case.mu * u**2).sum() - (case.mu * u).sum() ** 2
    rda = lab.RDA(pairs.product(case.mu)).value(case.instance, case.theta)
    close(rda, 2 * variance)

    def ra(value):  # RA with the number `value` in place of tau log Z
        offset = value / case.tau - float(case.instance.log_partition)
        return lab.RA(case.mu, log_z_offset=offset).value(case.instance, case.theta)

    best = (case.mu * u).sum()
    close(2 * ra(best), rda)
    assert ra(best) < min(ra(best - 1e-3), ra(best + 1e-3))


def test_4_group_loss_is_twice_the_unbiased_variance(case):
    u = case.generator.normal(size=(3, 5))
    pairs_of_row = [[(row[i] - row[j]) ** 2 for i in range(5) for j in range(5) if i != j] for row in u]
    close(lab.group_rda(u), np.mean(pairs_of_row, axis=1))
    step = 1e-6
    for k in range(5):  # du / dlp = -tau
        moved = np.eye(5)[k] * step * -case.tau
        slope = (lab.group_rda(u + moved) - lab.group_rda(u - moved)) / (2 * step)
        close(slope, -4 * case.tau * (u[:, k] - u.mean(axis=1)) / 4, 1e-7)


def test_5_on_policy_pra_is_a_policy_gradient(case):
    instance, p = case.instance, case.p
    win = instance.preference @ p
    believed = targets.sigmoid(case.tau * (case.h[:, None] - case.h[None, :])) @ p
    weight = p * (believed - win)
    expected = 2 * case.tau * (weight - p * weight.sum())
    close(lab.PRA(lab.ON_POLICY).gradient(instance, case.theta), expected)


def test_5_only_the_kl_form_vanishes_through_the_sampler(case):
    at_target = case.instance.log_target
    kl = lab.PRA(lab.ON_POLICY, through_sampler=True)
    ce = lab.PRA(lab.ON_POLICY, form="cross_entropy", through_sampler=True)
    assert np.abs(kl.gradient(case.instance, at_target)).max() < TOLERANCE
    assert np.abs(ce.gradient(case.instance, at_target)).max() > 1e-5


def test_6_pra_is_rda_weighted_by_the_label_variance():
    for gap in (0.0, 0.4, -2.0):
        instance = lab.Instance([gap, 0.0], tau=0.7, log_reference=[0.3, -0.2])
        p = float(targets.sigmoid(gap))
        ratios = []
        for epsilon in (1e-2, 1e-3):
            theta = instance.log_target + np.array([epsilon, 0.0])
            weights = pairs.star(2, 0)
            ratios.append(lab.PRA(weights).value(instance, theta) / lab.RDA(weights).value(instance, theta))
        # the error falls with epsilon (with its square where the gap is 0)
        close(ratios[1], p * (1 - p) / 2, 1e-4)
        assert abs(ratios[1] - p * (1 - p) / 2) < 0.2 * abs(ratios[0] - p * (1 - p) / 2)
    instance = lab.Instance([1.0, 1.0], tau=0.5)
    theta = np.array([1e-3, 0.0])
    close(
        lab.PRA(pairs.star(2, 0)).value(instance, theta) / lab.RDA(pairs.star(2, 0)).value(instance, theta), 1 / 8, 1e-6
    )


def hessian(update, instance, theta, step=1e-5):
    """Central differences of the exact gradient."""
    rows = [
        (update.gradient(instance, theta + step * e) - update.gradient(instance, theta - step * e)) / (2 * step)
        for e in np.eye(len(theta))
    ]
    return np.array(rows)


def test_7_hessians(case):
    instance, tau, n = case.instance, case.tau, case.instance.n
    at_target = instance.log_target
    centred = np.eye(n) - instance.target[None, :]
    close(
        hessian(lab.RA(case.mu), instance, at_target),
        2 * tau**2 * sum(m * np.outer(c, c) for m, c in zip(case.mu, centred, strict=True)),
        1e-8,
    )
    weights = case.generator.dirichlet(np.ones(n * n)).reshape(n, n)
    e = np.eye(n)
    graph = sum(weights[i, j] * np.outer(e[i] - e[j], e[i] - e[j]) for i in range(n) for j in range(n))
    close(pairs.laplacian(weights), graph)
    for theta in (at_target, case.theta):  # quadratic: the same everywhere
        close(hessian(lab.RDA(weights), instance, theta), 2 * tau**2 * graph, 1e-8)
    spread = instance.preference * (1 - instance.preference)
    close(hessian(lab.PRA(weights), instance, at_target), tau**2 * pairs.laplacian(weights * spread), 1e-8)


def test_7_rates_follow_from_the_hessians(case):
    instance, tau, lr = case.instance, case.tau, 0.05
    weights = case.generator.dirichlet(np.ones(36)).reshape(6, 6)
    spread = instance.preference * (1 - instance.preference)
    for update, graph, factor in ((lab.RDA(weights), weights, 2), (lab.PRA(weights), weights * spread, 1)):
        values, vectors = pairs.spectrum(graph)
        for k in range(1, 6):
            found = lab.contraction(instance, update, vectors[:, k], lr=lr, epsilon=1e-6)
            close(found, 1 - factor * tau**2 * lr * values[k], 1e-7)


@pytest.mark.parametrize("offset", [0.5, -0.3])
def test_8_a_wrong_partition_function_off_policy(case, offset):
    update = lab.RA(case.mu, log_z_offset=offset)
    end = lab.descend(case.instance, update, lr=0.5 / case.tau**2, steps=50_000, tolerance=1e-15)
    constant = case.mu * update.residual(case.instance, np.log(end.policy)) / end.policy
    close(constant, constant[0])
    assert case.instance.distance(end.theta) > 1e-3


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_8_the_shift_bounds_are_a_chain(case, scale):
    mu = np.exp(targets.log_softmax(case.log_p + scale * case.generator.normal(size=6)))
    chain = lab.shift_bounds(case.instance, case.theta, mu)
    assert list(chain) == sorted(chain)
    here = lab.PRA(lab.ON_POLICY).value(case.instance, case.theta)
    there = lab.PRA(pairs.product(mu)).value(case.instance, case.theta)
    close(chain[0], abs(here - there))
    margins = case.h[:, None] - case.h[None, :]
    gaps = case.instance.gaps
    largest = max(np.abs(case.tau * margins).max(), np.abs(gaps).max())
    assert chain[2] <= 2 * targets.softplus(largest) * targets.total_variation(case.p, mu) + TOLERANCE


def test_11_descent_conserves_the_logits_of_a_component(case):
    weights = np.zeros((6, 6))
    weights[0, 3], weights[3, 4], weights[5, 1] = 0.2, 0.5, 0.3  # 2 is in no pair
    members = [(0, 3, 4), (1, 5), (2,)]
    labels = pairs.components(weights)
    assert [tuple(np.flatnonzero(labels == k)) for k in range(3)] == [(0, 3, 4), (1, 5), (2,)]
    for update in (lab.RDA(weights), lab.PRA(weights), lab.PRA(weights, labels="deterministic")):
        end = lab.descend(case.instance, update, lr=0.3 / case.tau**2, steps=500, start=case.theta)
        for member in members:
            index = list(member)
            close(end.theta[index].sum(), case.theta[index].sum(), 1e-12)
        close(end.theta[2], case.theta[2], 0)
