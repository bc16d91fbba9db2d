"""Reward-difference losses on pairs, against formulas written here."""

import pytest

from .pra.plain import check, make
from .pra.test_margin import score


def ipo(p, beta=0.1, f_divergence_type="reverse_kl"):
    (s_w, d_w), (s_l, d_l) = score(p.hw, f_divergence_type), score(p.hl, f_divergence_type)
    e = s_w / p.tw - s_l / p.tl - 1 / (2 * beta)
    return e * e, 2 * e * d_w / p.tw, -2 * e * d_l / p.tl


def ipo_sum(p, beta=0.1):
    e = p.d - 1 / (2 * beta)
    return e * e, 2 * e, -2 * e


def rpo_sq(p, beta=0.1, gt_reward_scale=1.0):
    e = beta * p.d - gt_reward_scale * (p.reward_w - p.reward_l)
    return e * e, 2 * beta * e, -2 * beta * e


def rebel(p, eta=1.0):
    e = p.d - eta * (p.reward_w - p.reward_l)
    return e * e, 2 * e, -2 * e


CASES = [
    ("ipo", {}, ipo),
    ("ipo", {"beta": 0.7}, ipo),
    ("ipo", {"f_divergence_type": "js_divergence"}, ipo),
    ("ipo_sum", {}, ipo_sum),
    ("rpo_sq", {}, rpo_sq),
    ("rda", {"beta": 0.7, "gt_reward_scale": 2.0}, rpo_sq),
    ("rebel", {}, rebel),
    ("rebel", {"eta": 0.3}, rebel),
]


@pytest.mark.parametrize(("name", "hyper", "formula"), CASES)
def test_value_and_derivative(name, hyper, formula):
    check(name, hyper, formula)


@pytest.mark.parametrize(
    ("name", "hyper"), [("ipo", {"beta": 0.0}), ("rpo_sq", {"gt_reward_scale": 0.0}), ("rebel", {"eta": 0.0})]
)
def test_hyper_parameters_are_checked(name, hyper):
    with pytest.raises(ValueError, match=f"{next(iter(hyper))}: expected"):
        make(name, **hyper)


def test_rebel_rewards_are_in_the_unit_of_the_given_ones():
    assert make("rebel", eta=0.25).reward_scale == 4.0
