"""Pairwise losses that are not functions of the margin alone, against formulas written here."""

import math

import pytest
import torch

from .plain import (
    MODERATE,
    Pair,
    batch_of,
    check,
    clamped_exp,
    close,
    log1mexp,
    losses_and_derivatives,
    make,
    sigmoid,
    slope,
    softplus,
)


def sigmoid_norm(p, beta=0.1):
    z = beta * (p.hw / p.tw - p.hl / p.tl)
    return softplus(-z), -beta * sigmoid(-z) / p.tw, beta * sigmoid(-z) / p.tl


def nca_pair(p, beta=0.1):
    a, b = beta * p.hw, beta * p.hl
    loss = softplus(-a) + 0.5 * softplus(a) + 0.5 * softplus(b)
    return loss, beta * (0.5 * sigmoid(a) - sigmoid(-a)), 0.5 * beta * sigmoid(b)


def bco_pair(p, beta=0.1):
    a, b = beta * p.hw, beta * p.hl
    return softplus(-a) + softplus(b), -beta * sigmoid(-a), beta * sigmoid(b)


def apo_zero(p, beta=0.1):
    a, b = beta * p.hw, beta * p.hl
    return sigmoid(-a) + sigmoid(b), -beta * slope(a), beta * slope(b)


def apo_down(p, beta=0.1):
    a, z = beta * p.hw, beta * p.d
    return sigmoid(a) + sigmoid(-z), beta * (slope(a) - slope(z)), beta * slope(z)


def sppo_hard(p, beta=0.1):
    e_w, e_l = p.hw - 1 / (2 * beta), p.hl + 1 / (2 * beta)
    return e_w**2 + e_l**2, 2 * e_w, 2 * e_l


def sppo(p, beta=1e-3):
    e_w, e_l = p.hw - (p.win_w - 0.5) / beta, p.hl - (p.win_l - 0.5) / beta
    return (e_w**2 + e_l**2) / 2, e_w, e_l


def dpop(p, beta=0.3, dpop_lambda=50.0):
    z = beta * (p.d - dpop_lambda * max(0.0, -p.hw))
    return (
        softplus(-z),
        -beta * sigmoid(-z) * (1 + dpop_lambda * (p.hw < 0)),
        beta * sigmoid(-z),
    )


def cpo(p, beta=0.1, cpo_alpha=1.0, label_smoothing=0.0, loss_type="sigmoid"):
    nll, eps = -p.lw / p.share, label_smoothing
    if loss_type == "ipo":
        e = p.lw / p.tw - p.ll / p.tl - 1 / (2 * beta)
        return e * e + cpo_alpha * nll, 2 * e / p.tw - cpo_alpha / p.share, -2 * e / p.tl
    z = beta * (p.lw - p.ll)
    if loss_type == "hinge":
        return max(0.0, 1 - z) + cpo_alpha * nll, -beta * (z < 1) - cpo_alpha / p.share, beta * (z < 1)
    phi = eps * sigmoid(z) - (1 - eps) * sigmoid(-z)
    loss = (1 - eps) * softplus(-z) + eps * softplus(z)
    return loss + cpo_alpha * nll, beta * phi - cpo_alpha / p.share, -beta * phi


def simpo(p, beta=0.1, simpo_gamma=0.5, cpo_alpha=0.0, label_smoothing=0.0):
    eps, z = label_smoothing, beta * (p.lw / p.tw - p.ll / p.tl) - simpo_gamma
    phi = eps * sigmoid(z) - (1 - eps) * sigmoid(-z)
    loss = (1 - eps) * softplus(-z) + eps * softplus(z) - cpo_alpha * p.lw / p.share
    return loss, beta * phi / p.tw - cpo_alpha / p.share, -beta * phi / p.tl


def alphapo(p, beta=2.5, simpo_gamma=0.1, alpha=0.25, cpo_alpha=0.0):
    (e_w, d_w), (e_l, d_l) = clamped_exp(-alpha * p.lw / p.tw), clamped_exp(-alpha * p.ll / p.tl)
    z = beta * ((1 - e_w) - (1 - e_l)) / alpha - simpo_gamma
    loss = softplus(-z) - cpo_alpha * p.lw / p.share
    return loss, -beta * sigmoid(-z) * d_w / p.tw - cpo_alpha / p.share, beta * sigmoid(-z) * d_l / p.tl


def orpo(p, beta=0.1):
    m_w, m_l = p.lw / p.tw, p.ll / p.tl
    o = m_w - m_l - log1mexp(m_w) + log1mexp(m_l)
    pull = beta * sigmoid(-o)
    a_w, a_l = pull / (math.expm1(m_w) * p.tw), -pull / (math.expm1(m_l) * p.tl)
    return -p.lw / p.share + beta * softplus(-o), a_w - 1 / p.share, a_l


def slic_hf(p, delta=1.0, lambda_coef=0.1):
    gap = delta - p.lw + p.ll
    return max(0.0, gap) - lambda_coef * p.sft, -1.0 * (gap > 0), 1.0 * (gap > 0)


def xpo(p, beta=0.1, alpha=1e-5):
    z = beta * p.d
    bonus = p.lw if p.ref_w else p.ll
    return (
        softplus(-z) + alpha * bonus,
        -beta * sigmoid(-z) + alpha * p.ref_w,
        beta * sigmoid(-z) + alpha * (not p.ref_w),
    )


def tdpo1(p, beta=0.1):
    z = beta * (p.d - (p.kl_l - p.kl_w))
    return softplus(-z), -beta * sigmoid(-z), beta * sigmoid(-z)


def tdpo2(p, beta=0.1, alpha=0.5):
    z = beta * (p.d - alpha * (p.kl_l - p.kl_w))
    return softplus(-z), -beta * sigmoid(-z), beta * sigmoid(-z)


CASES = [
    ("sigmoid_norm", {}, sigmoid_norm),
    ("sigmoid_norm", {"beta": 5.0}, sigmoid_norm),
    ("nca_pair", {}, nca_pair),
    ("bco_pair", {"beta": 0.01}, bco_pair),
    ("apo_zero", {}, apo_zero),
    ("apo_down", {"beta": 0.4}, apo_down),
    ("sppo_hard", {"beta": 0.001}, sppo_hard),
    ("sppo", {}, sppo),
    ("sppo", {"beta": 0.1}, sppo),
    ("dpop", {}, dpop),
    ("dpop", {"beta": 0.1, "dpop_lambda": 5.0}, dpop),
    ("cpo", {}, cpo),
    ("cpo", {"cpo_alpha": 0.0, "label_smoothing": 0.2, "beta": 0.3}, cpo),
    ("cpo", {"loss_type": "hinge"}, cpo),
    ("cpo", {"loss_type": "ipo", "cpo_alpha": 0.5}, cpo),
    ("simpo", {}, simpo),
    ("simpo", {"beta": 2.5, "simpo_gamma": 1.375, "cpo_alpha": 0.5, "label_smoothing": 0.1}, simpo),
    ("alphapo", {}, alphapo),
    ("alphapo", {"beta": 10.0, "alpha": -0.5, "cpo_alpha": 0.5}, alphapo),
    ("orpo", {}, orpo),
    ("orpo", {"beta": 0.5}, orpo),
    ("slic_hf", {}, slic_hf),
    ("slic_hf", {"delta": 10.0, "lambda_coef": 1.0}, slic_hf),
    ("xpo", {}, xpo),
    ("xpo", {"beta": 0.3, "alpha": 0.2}, xpo),
    ("tdpo1", {"beta": 0.5}, tdpo1),
    ("tdpo2", {"beta": 0.5, "alpha": 0.7}, tdpo2),
]


@pytest.mark.parametrize(("name", "hyper", "formula"), CASES)
def test_value_and_derivative(name, hyper, formula):
    check(name, hyper, formula)


@pytest.mark.parametrize(("name", "coefficients"), [("tdpo1", (1.0, 1.0)), ("tdpo2", (0.0, 0.7))])
def test_tdpo_derivative_by_the_kl(name, coefficients):
    objective = make(name, **({"alpha": 0.7} if name == "tdpo2" else {}))
    batch = batch_of(objective, MODERATE)
    _, a_w, a_l = losses_and_derivatives(objective, batch)
    batch.kl.requires_grad_()
    (grad,) = torch.autograd.grad(objective.losses(batch).sum(), batch.kl)
    by_w, by_l = coefficients
    assert grad.tolist() == pytest.approx([by_w * a for a in a_w] + [by_l * a for a in a_l], rel=1e-12)


def test_slic_regularises_towards_the_chosen_unless_told_otherwise():
    objective = make("slic_hf", lambda_coef=0.25)
    batch = batch_of(objective, [Pair(-3.0, -9.0, sft=-7.0)])
    sft = batch.data["sft_logps"].requires_grad_()
    assert torch.autograd.grad(objective.losses(batch).sum(), [batch.policy, sft], allow_unused=True)[1].item() == -0.25
    batch.data.pop("sft_logps")
    assert losses_and_derivatives(objective, batch) == ([0.75], [-0.25], [0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("certain", [(0.0, -3.0), (-3.0, 0.0), (0.0, 0.0)])
def test_orpo_is_finite_for_certain_responses(certain, dtype):
    objective = make("orpo")
    losses, a_w, a_l = losses_and_derivatives(objective, batch_of(objective, [Pair(*certain)], dtype))
    assert all(map(math.isfinite, [*losses, *a_w, *a_l]))


def test_likelihood_counts_plain_tokens_where_the_sums_are_weighted():
    objective = make("cpo", cpo_alpha=2.0)
    batch = batch_of(objective, MODERATE)
    weighted = type(batch)(batch.policy, None, batch.lengths, unweighted=3 * batch.policy)
    share = sum(p.tw for p in MODERATE) / len(MODERATE)
    extra = (objective.losses(weighted) - objective.losses(batch)).tolist()
    assert all(close(e, 2.0 * 2.0 * -p.lw / share) for e, p in zip(extra, MODERATE, strict=True))


@pytest.mark.parametrize("name", ["cpo", "simpo", "orpo"])
def test_rewards_and_likelihood_in_the_metrics(name):
    objective = make(name)
    metrics = objective.metrics(batch_of(objective, MODERATE))
    rewards = [0.1 * p.lw / (1 if name == "cpo" else p.tw) for p in MODERATE]
    assert metrics["rewards/chosen"].item() == pytest.approx(sum(rewards) / len(MODERATE))
    assert metrics["nll_loss"].item() == pytest.approx(-sum(p.lw for p in MODERATE) / sum(p.tw for p in MODERATE))
    if name == "orpo":
        odds = [orpo_odds(p) for p in MODERATE]
        assert metrics["log_odds_chosen"].item() == pytest.approx(sum(odds) / len(odds))
        assert metrics["log_odds_ratio"].item() == pytest.approx(-sum(softplus(-o) for o in odds) / len(odds))
    if name == "cpo":  # without its likelihood CPO needs no lengths, and may not have been given any
        assert "nll_loss" not in make(name, cpo_alpha=0.0).metrics(batch_of(objective, MODERATE))


def orpo_odds(p):
    return p.lw / p.tw - p.ll / p.tl - log1mexp(p.lw / p.tw) + log1mexp(p.ll / p.tl)


def test_cpo_without_likelihood_is_a_loss_of_the_margin():
    assert make("cpo", cpo_alpha=0.0).traits.margin_only
    assert not make("cpo").traits.margin_only
    assert not make("cpo", cpo_alpha=0.0, loss_type="ipo").traits.margin_only


def test_wpo_weights_are_detached_factors():
    plain, weighted = make("nca_pair"), make("nca_pair", use_weighting=True)
    batch = batch_of(plain, MODERATE)
    aligned = -torch.rand(2 * len(MODERATE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = type(batch)(batch.policy, batch.reference, batch.lengths, aligned=aligned)
    factors = torch.exp(sum(aligned.chunk(2))).tolist()
    for without, found in zip(
        losses_and_derivatives(plain, batch), losses_and_derivatives(weighted, given), strict=True
    ):
        assert found == pytest.approx([f * w for f, w in zip(factors, without, strict=True)], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "hyper", "error"),
    [
        ("dpop", {"dpop_lambda": -1.0}, "dpop_lambda: expected"),
        ("cpo", {"cpo_alpha": -1.0}, "cpo_alpha: expected"),
        ("cpo", {"loss_type": "hing"}, "loss_type: expected .*'hinge'"),
        ("cpo", {"loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing: expected 0"),
        ("simpo", {"simpo_gamma": -1.0}, "simpo_gamma: expected"),
        ("alphapo", {"alpha": 0.0}, "alpha: expected .* 'simpo'"),
        ("slic_hf", {"delta": 0.0}, "delta: expected"),
        ("xpo", {"alpha": -1.0}, "alpha: expected"),
        ("tdpo2", {"alpha": -1.0}, "alpha: expected"),
        ("sppo", {"beta": 0.0}, "beta: expected"),
        ("orpo", {"beta": 0.0}, "beta: expected"),
        *(
            (name, {"f_divergence_type": "forward_kl"}, "f_divergence_type: expected 'reverse_kl'")
            for name in ("nca_pair", "bco_pair", "apo_zero", "apo_down", "sppo_hard", "aot", "aot_unpaired")
        ),
    ],
)
def test_hyper_parameters_are_checked(name, hyper, error):
    with pytest.raises(ValueError, match=error):
        make(name, **hyper)


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_tdpo_says_that_it_needs_the_vocabulary(name):
    objective = make(name)
    batch = batch_of(objective, MODERATE)
    with pytest.raises(ValueError, match="KL over the vocabulary"):
        objective.losses(type(batch)(batch.policy, batch.reference, batch.lengths))
