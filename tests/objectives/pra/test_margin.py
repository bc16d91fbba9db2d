"""Losses of the margin alone, against formulas written here."""

import math

import pytest
import torch

from .plain import (
    MOST,
    Pair,
    batch_of,
    bernoulli_kl,
    check,
    clamped_exp,
    losses_and_derivatives,
    make,
    sigmoid,
    slope,
    softplus,
)

B = 0.1


def of_z(loss, phi):
    """A formula from ``loss(z, **hyper)`` and ``phi(z, **hyper)``."""

    def formula(p, beta=B, **hyper):
        z = beta * p.d
        return loss(z, **hyper), beta * phi(z, **hyper), -beta * phi(z, **hyper)

    return formula


dpo = of_z(lambda z: softplus(-z), lambda z: -sigmoid(-z))
cdpo = of_z(
    lambda z, label_smoothing=0.0: (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z),
    lambda z, label_smoothing=0.0: label_smoothing * sigmoid(z) - (1 - label_smoothing) * sigmoid(-z),
)
robust = of_z(
    lambda z, label_smoothing=0.0: (
        ((1 - label_smoothing) * softplus(-z) - label_smoothing * softplus(z)) / (1 - 2 * label_smoothing)
    ),
    lambda z, label_smoothing=0.0: (
        -((1 - label_smoothing) * sigmoid(-z) + label_smoothing * sigmoid(z)) / (1 - 2 * label_smoothing)
    ),
)
hinge = of_z(lambda z: max(0.0, 1 - z), lambda z: -1.0 if z < 1 else 0.0)


def exo(p, beta=B, label_smoothing=1e-3):
    z, target = beta * p.d, math.log((1 - label_smoothing) / label_smoothing)
    phi = slope(z) * (z - target)
    return bernoulli_kl(z, target), beta * phi, -beta * phi


def discopop(p, beta=B, discopop_tau=0.05):
    z = beta * p.d
    m, n = sigmoid(z / discopop_tau), sigmoid(-z / discopop_tau)
    blended, moving = clamped_exp(-softplus(-z / discopop_tau) - z)
    phi = moving * (n / discopop_tau - 1) - m * n / discopop_tau * softplus(-z) - n * sigmoid(-z)
    return n * softplus(-z) + blended, beta * phi, -beta * phi


gpo_exponential = of_z(lambda z: clamped_exp(-z)[0], lambda z: -clamped_exp(-z)[1])
gpo_squared = of_z(lambda z: (z - 1) ** 2, lambda z: 2 * (z - 1))
gpo_truncated_squared = of_z(lambda z: max(0.0, 1 - z) ** 2, lambda z: -2 * max(0.0, 1 - z))
gpo_savage = of_z(lambda z: sigmoid(-z) ** 2, lambda z: -2 * sigmoid(-z) ** 2 * sigmoid(z))


def rpo_bwd_kl(p, beta=B, gt_reward_scale=1.0):
    z, g = beta * p.d, gt_reward_scale * (p.reward_w - p.reward_l)
    phi = sigmoid(z) * sigmoid(-g) - sigmoid(g) * sigmoid(-z)  # sigmoid(z) - sigmoid(g), without its cancellation
    return bernoulli_kl(g, z), beta * phi, -beta * phi


def rpo_fwd_kl(p, beta=B, gt_reward_scale=1.0):
    z, g = beta * p.d, gt_reward_scale * (p.reward_w - p.reward_l)
    return bernoulli_kl(z, g), beta * slope(z) * (z - g), -beta * slope(z) * (z - g)


def r_dpo(p, beta=B, alpha=0.01):
    z = beta * p.d + alpha * (p.tw - p.tl)
    return softplus(-z), -beta * sigmoid(-z), beta * sigmoid(-z)


def score(h, kind, c=0.5):
    if kind == "forward_kl":
        value, derivative = clamped_exp(-h)
        return 1 - value, derivative
    if kind == "js_divergence":
        return math.log(2) - softplus(-h), sigmoid(-h)
    if kind == "alpha_divergence":
        value, derivative = clamped_exp((c - 1) * h)
        return (value - 1) / (c - 1), derivative
    return h, 1.0


def f_dpo(p, beta=B, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5):
    (s_w, d_w), (s_l, d_l) = (score(h, f_divergence_type, f_alpha_divergence_coef) for h in (p.hw, p.hl))
    z = beta * (s_w - s_l)
    return softplus(-z), -beta * sigmoid(-z) * d_w, beta * sigmoid(-z) * d_l


CASES = [
    ("sigmoid", {}, dpo),
    ("dpo", {"beta": 0.5}, dpo),
    ("cdpo", {"label_smoothing": 0.1}, cdpo),
    ("cdpo", {"label_smoothing": 0.5, "beta": 0.3}, cdpo),
    ("robust", {}, robust),
    ("robust", {"label_smoothing": 0.1}, robust),
    ("hinge", {}, hinge),
    ("hinge", {"beta": 0.05}, hinge),
    ("exo_pair", {}, exo),
    ("exo_pair", {"label_smoothing": 0.2, "beta": 0.5}, exo),
    ("discopop", {}, discopop),
    ("discopop", {"beta": 0.05, "discopop_tau": 2.0}, discopop),
    ("gpo_exponential", {}, gpo_exponential),
    ("gpo_squared", {"beta": 0.3}, gpo_squared),
    ("gpo_truncated_squared", {"beta": 0.3}, gpo_truncated_squared),
    ("gpo_savage", {"beta": 0.3}, gpo_savage),
    ("rpo_bwd_kl", {}, rpo_bwd_kl),
    ("pra", {"beta": 0.3, "gt_reward_scale": 0.25}, rpo_bwd_kl),
    ("rpo_fwd_kl", {}, rpo_fwd_kl),
    ("rpo_fwd_kl", {"beta": 0.3, "gt_reward_scale": 0.25}, rpo_fwd_kl),
    ("r_dpo", {}, r_dpo),
    ("r_dpo", {"alpha": 0.5}, r_dpo),
    ("f_dpo", {"f_divergence_type": "forward_kl"}, f_dpo),
    ("f_dpo", {"f_divergence_type": "js_divergence"}, f_dpo),
    ("f_dpo", {"f_divergence_type": "alpha_divergence"}, f_dpo),
    ("f_dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.7}, f_dpo),
]


@pytest.mark.parametrize(("name", "hyper", "formula"), CASES)
def test_value_and_derivative(name, hyper, formula):
    check(name, hyper, formula)


@pytest.mark.parametrize("name", ["hinge", "gpo_truncated_squared"])
def test_the_kink_is_not_active(name):
    objective = make(name, beta=1.0)
    assert losses_and_derivatives(objective, batch_of(objective, [Pair(-1.0, -2.0)])) == ([0.0], [0.0], [0.0])


def test_clamped_exponent_stays_within_float32():
    objective = make("gpo_exponential", beta=1.0)
    found = losses_and_derivatives(objective, batch_of(objective, [Pair(-1e5, 0.0)], torch.float32))
    assert found == ([pytest.approx(math.exp(MOST), rel=1e-5)], [0.0], [0.0])


def test_a_prior_free_loss_has_a_uniform_reference():
    objective = make("sigmoid")
    batch = batch_of(objective, [Pair(-3.0, -5.0, -7.0, -7.0)])
    alone = objective.losses(type(batch)(batch.policy, None, batch.lengths))
    assert torch.equal(alone, objective.losses(batch))


@pytest.mark.parametrize(
    ("name", "hyper", "error"),
    [
        *(("sigmoid", {"beta": bad}, "beta") for bad in (0.0, -1.0, math.inf, math.nan)),
        *(("cdpo", {"label_smoothing": bad}, "label_smoothing") for bad in (-0.1, 0.51)),
        *(("robust", {"label_smoothing": bad}, "label_smoothing") for bad in (-0.1, 0.5)),
        *(("exo_pair", {"label_smoothing": bad}, "label_smoothing") for bad in (0.0, 0.5)),
        ("discopop", {"discopop_tau": 0.0}, "discopop_tau"),
        ("rpo_bwd_kl", {"gt_reward_scale": 0.0}, "gt_reward_scale"),
        ("r_dpo", {"alpha": -0.1}, "alpha"),
    ],
)
def test_hyper_parameters_are_checked(name, hyper, error):
    with pytest.raises(ValueError, match=f"{error}: expected"):
        make(name, **hyper)
