"""Exact gradients against autograd of the population losses, written out a second time in torch."""

import itertools

import numpy as np
import pytest
import torch

from fastpref import lab
from fastpref.lab import pairs, targets

N = 5


def draw(seed, batch=()):
    generator = np.random.default_rng(seed)
    reward, reference = generator.normal(size=(*batch, N)), generator.normal(size=(*batch, N))
    theta, mu = generator.normal(size=(*batch, N)), generator.dirichlet(np.ones(N))
    weights = generator.dirichlet(np.ones(N * N)).reshape(N, N)
    return reward, reference, theta, mu, weights, float(generator.uniform(0.3, 1.5))


class Oracle:
    """One prompt in torch float64; sums over responses and pairs as Python loops."""

    def __init__(self, reward, reference, theta, tau):
        self.r = torch.tensor(reward)
        self.theta = torch.tensor(theta, requires_grad=True)
        self.lp = torch.log_softmax(self.theta, -1)
        self.lref = (
            torch.zeros(N, dtype=torch.float64) if reference is None else torch.log_softmax(torch.tensor(reference), -1)
        )
        self.h, self.tau = self.lp - self.lref, tau
        self.log_z = torch.logsumexp(self.lref + self.r / tau, -1)

    def gradient(self, loss):
        (found,) = torch.autograd.grad(loss, self.theta)
        return float(loss.detach()), found.numpy()

    def bda(self):
        p = self.lp.exp()
        return self.gradient((p * (self.h - self.r / self.tau)).sum() + self.log_z)

    def ra(self, mu, offset):
        mu = self.lp.detach().exp() if mu is None else torch.tensor(mu)
        u = self.r - self.tau * self.h - self.tau * (self.log_z + offset)
        return self.gradient((mu * u**2).sum())

    def over_pairs(self, weights, f, detach=True):
        p = self.lp.exp()
        p = p.detach() if detach else p
        terms = [
            (p[i] * p[j] if weights is None else weights[i, j]) * f(i, j)
            for i, j in itertools.product(range(N), repeat=2)
        ]
        return self.gradient(sum(terms))

    def rda(self, weights):
        return self.over_pairs(
            weights, lambda i, j: ((self.r[i] - self.r[j]) - self.tau * (self.h[i] - self.h[j])) ** 2
        )

    def pra(self, weights, *, labels, form, detach=True):
        def f(i, j):
            gap = self.r[i] - self.r[j]
            p = torch.sigmoid(gap) if labels == "bradley_terry" else 0.5 * (1 + torch.sign(gap))
            q = torch.sigmoid(self.tau * (self.h[i] - self.h[j]))
            loss = -torch.xlogy(p, q) - torch.xlogy(1 - p, 1 - q)
            return loss + torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p) if form == "kl" else loss

        return self.over_pairs(weights, f, detach)


def check(update, instance, theta, expected):
    value, gradient = expected
    np.testing.assert_allclose(update.value(instance, theta), value, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(update.gradient(instance, theta), gradient, rtol=0, atol=1e-11)
    assert abs(update.gradient(instance, theta).sum()) < 1e-12


@pytest.fixture(params=itertools.product(range(3), (True, False)), ids=str)
def case(request):
    seed, posterior = request.param
    reward, reference, theta, mu, weights, tau = draw(seed)
    reference = reference if posterior else None
    instance = lab.Instance(reward, tau=tau, log_reference=reference)
    return instance, theta, mu, weights, lambda: Oracle(reward, reference, theta, tau)


def test_bda(case):
    instance, theta, _, _, oracle = case
    check(lab.BDA(), instance, theta, oracle().bda())


@pytest.mark.parametrize("offset", [0.0, 0.8])
def test_ra(case, offset):
    instance, theta, mu, _, oracle = case
    check(lab.RA(mu, log_z_offset=offset), instance, theta, oracle().ra(mu, offset))
    check(lab.RA(lab.ON_POLICY, log_z_offset=offset), instance, theta, oracle().ra(None, offset))


def test_rda(case):
    instance, theta, _, weights, oracle = case
    check(lab.RDA(weights), instance, theta, oracle().rda(weights))
    check(lab.RDA(lab.ON_POLICY), instance, theta, oracle().rda(None))


@pytest.mark.parametrize("labels", ["bradley_terry", "deterministic"])
@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_pra(case, labels, form):
    instance, theta, _, weights, oracle = case
    option = {"labels": labels, "form": form}
    check(lab.PRA(weights, **option), instance, theta, oracle().pra(weights, **option))
    check(lab.PRA(lab.ON_POLICY, **option), instance, theta, oracle().pra(None, **option))
    through = lab.PRA(lab.ON_POLICY, through_sampler=True, **option)
    check(through, instance, theta, oracle().pra(None, detach=False, **option))


def test_hard_random_labels_have_the_gradient_of_soft_ones(case):
    instance, theta, _, weights, oracle = case
    o = oracle()
    wins = torch.sigmoid(o.r[:, None] - o.r[None, :])  # i is chosen with this probability

    def expected(i, j):
        z = o.tau * (o.h[i] - o.h[j])
        return -wins[i, j] * torch.nn.functional.logsigmoid(z) - wins[j, i] * torch.nn.functional.logsigmoid(-z)

    check(lab.PRA(weights, form="cross_entropy"), instance, theta, o.over_pairs(weights, expected))


@pytest.mark.parametrize("kl", ["k1_in_reward", "k2", "k3", "k1_as_loss"])
@pytest.mark.parametrize("scale", [False, True])
def test_policy_gradient(case, kl, scale):
    instance, theta, _, _, oracle = case
    o = oracle()
    p, d = o.lp.detach().exp(), o.lref - o.lp
    reward = o.r - o.tau * o.h.detach() if kl == "k1_in_reward" else o.r
    advantage = reward - (p * reward).sum()
    if scale:
        advantage = advantage / (p * advantage**2).sum().sqrt()
    term = {"k1_in_reward": 0 * d, "k1_as_loss": -d, "k2": 0.5 * d**2, "k3": d.exp() - d - 1}[kl]
    _, expected = o.gradient((p * (-advantage * o.lp + o.tau * term)).sum())
    found = lab.PolicyGradient(kl, scale_by_std=scale).gradient(instance, theta)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_batches_are_independent_prompts():
    reward, reference, theta, mu, weights, tau = draw(7, batch=(2, 3))
    instance = lab.Instance(reward, tau=tau, log_reference=reference)
    updates = [
        lab.BDA(),
        lab.RA(mu),
        lab.RDA(weights),
        lab.RDA(lab.ON_POLICY),
        lab.PRA(weights),
        lab.PRA(lab.ON_POLICY),
    ]
    for update in [*updates, lab.PRA(lab.ON_POLICY, through_sampler=True), lab.PolicyGradient("k3", scale_by_std=True)]:
        together = update.gradient(instance, theta)
        for index in np.ndindex(2, 3):
            alone = lab.Instance(reward[index], tau=tau, log_reference=reference[index])
            np.testing.assert_allclose(together[index], update.gradient(alone, theta[index]), rtol=0, atol=1e-14)
            if isinstance(update, lab.Loss):
                np.testing.assert_allclose(
                    update.value(instance, theta)[index], update.value(alone, theta[index]), atol=1e-14
                )


def test_large_margins_stay_finite():
    instance = lab.Instance([0.0, 800.0], tau=0.5)
    for update in (
        lab.PRA(pairs.uniform(2)),
        lab.PRA(pairs.uniform(2), labels="deterministic"),
        lab.BDA(),
        lab.RDA(lab.ON_POLICY),
    ):
        for theta in ([0.0, 3000.0], [3000.0, 0.0]):
            assert np.isfinite(update.gradient(instance, theta)).all()
            assert np.isfinite(update.value(instance, theta)).all()
    assert targets.sigmoid(-2000.0) == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: lab.PRA(lab.ON_POLICY, labels="noisy"), "labels.*'noisy'"),
        (lambda: lab.PRA(lab.ON_POLICY, form="ce"), "form.*'ce'"),
        (lambda: lab.PRA(pairs.uniform(3), through_sampler=True), "through_sampler.*ON_POLICY"),
        (lambda: lab.PolicyGradient("k4"), "kl.*'k4'"),
    ],
)
def test_wrong_options(build, words):
    with pytest.raises(ValueError, match=words):
        build()
