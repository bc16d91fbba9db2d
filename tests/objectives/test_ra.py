"""Pointwise regressions against formulas written here."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.ra import (
    DROV,
    QRPO,
    RA,
    UNA,
    AStarPO,
    GroupRegression,
    log_partition,
    optimal_value,
    reward_quantiles,
)

POLICY = [-12.3, -15.1, -20.5, -18.0, -3.25]
REFERENCE = [-13.0, -14.2, -19.0, -19.5, -3.5]
H = [p - r for p, r in zip(POLICY, REFERENCE, strict=True)]
DATA = {
    "rewards": [0.9, 0.1, 0.55, 0.0, 1.0],
    "log_z": [0.4, -0.3, 2.0, 1.0, 0.1],
    "values": [0.3, 0.5, -0.2, 0.0, 0.7],
    "quantiles": [0.75, 0.0, 0.25, 0.5, 1.0],
    "desirable": [True, False, True, False, False],
}


def batch(policy=POLICY, reference=REFERENCE, dtype=torch.float64, **data) -> SequenceBatch:
    def tensor(values):
        return torch.tensor(values, dtype=torch.bool if isinstance(values[0], bool) else dtype)

    return SequenceBatch(
        tensor(policy).requires_grad_(),
        None if reference is None else tensor(reference),
        torch.full((len(policy),), 3),
        {k: tensor(v) if isinstance(v, list) else v for k, v in {**DATA, **data}.items()},
    )


def sigmoid(z):
    return 1.0 / (1.0 + math.exp(-z))


def square(u, b):
    return u * u, -2 * b * u


def softplus_of(z, sign, b):
    return math.log1p(math.exp(-sign * z)), -sign * b * sigmoid(-sign * z)


def expected_ra(i, h):
    return square(DATA["rewards"][i] - 0.7 * h - 0.7 * DATA["log_z"][i], 0.7)


def expected_dro(i, h, slope=0.7):
    u = DATA["rewards"][i] - DATA["values"][i] - 0.7 * h
    return 0.5 * u * u, -slope * u


def expected_qrpo(transform, beta):
    def expected(i, h):
        q = DATA["quantiles"][i]
        if transform == "identity":
            f, log_z = q, math.log(beta * (math.exp(1 / beta) - 1))
        elif transform == "log":
            f, log_z = math.log(max(q, 1 / 8)), math.log(beta / (1 + beta))
        else:
            f, log_z = NormalDist().inv_cdf(min(max(q, 1 / 16), 15 / 16)), 1 / (2 * beta**2)
        return square(f - beta * log_z - beta * h, beta)

    return expected


def expected_qrpo_abs(i, h):
    u = DATA["quantiles"][i] - 0.3 * math.log(0.3 * (math.exp(1 / 0.3) - 1)) - 0.3 * h
    return abs(u), -0.3 * math.copysign(1, u)


def expected_astar(i, h):
    u = 0.2 * h - (DATA["rewards"][i] - DATA["values"][i])
    return u * u, 0.4 * u


def expected_una(i, h):
    s = sigmoid(0.3 * h)
    return (s - DATA["rewards"][i]) ** 2, 2 * 0.3 * s * (1 - s) * (s - DATA["rewards"][i])


def expected_una_binary(i, h):
    return softplus_of(0.3 * h, 1 if DATA["desirable"][i] else -1, 0.3)


def expected_una_square(i, h):
    s, label = sigmoid(0.3 * h), float(DATA["desirable"][i])
    return (s - label) ** 2, 2 * 0.3 * s * (1 - s) * (s - label)


CASES = {
    "ra": (RA(0.7), expected_ra),
    "dro_v": (DROV(0.7), expected_dro),
    "dro_v published": (DROV(0.7, drop_beta=True), lambda i, h: expected_dro(i, h, slope=1.0)),
    "qrpo identity": (QRPO(0.3), expected_qrpo("identity", 0.3)),
    "qrpo log": (QRPO(0.3, "log", num_reference_samples=8), expected_qrpo("log", 0.3)),
    "qrpo normal": (QRPO(0.3, "normal", num_reference_samples=8), expected_qrpo("normal", 0.3)),
    "qrpo abs": (QRPO(0.3, loss="abs"), expected_qrpo_abs),
    "astar_po": (AStarPO(0.2), expected_astar),
    "una": (UNA(0.3), expected_una),
    "una binary": (UNA(0.3, "binary"), expected_una_binary),
    "una binary square": (UNA(0.3, "binary", "square"), expected_una_square),
}


VERSIONS = [
    (case, prior_free)
    for case, (objective, _) in CASES.items()
    for prior_free in (False, True)
    if not (prior_free and objective.traits.reference == "required")
]


@pytest.mark.parametrize(("case", "prior_free"), VERSIONS)
def test_value_and_derivative(case, prior_free):
    objective, expected = CASES[case]
    b = batch(reference=None if prior_free else REFERENCE)
    losses = objective.losses(b)
    (grad,) = torch.autograd.grad(losses.sum(), b.policy)
    wanted = [expected(i, h) for i, h in enumerate(POLICY if prior_free else H)]
    assert losses.tolist() == pytest.approx([w[0] for w in wanted], rel=1e-12)
    assert grad.tolist() == pytest.approx([w[1] for w in wanted], rel=1e-11, abs=1e-15)
    if not objective.traits.surrogate:
        assert torch.autograd.gradcheck(lambda p: objective.losses(replace(b, policy=p)), (b.policy,))


@pytest.mark.parametrize("objective", [DROV(0.7), DROV(0.7, drop_beta=True)])
def test_the_value_of_dro_gets_its_gradient(objective):
    values = torch.tensor(DATA["values"], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(objective.losses(batch(values=values)).sum(), values)
    u = [DATA["rewards"][i] - DATA["values"][i] - 0.7 * h for i, h in enumerate(H)]
    assert grad.tolist() == pytest.approx([-x for x in u], rel=1e-12)


def test_group_regression():
    ids = torch.tensor([7, -2, 7, 7, 5])
    b = batch(groups=ids)
    losses = GroupRegression(0.7).losses(b)
    (grad,) = torch.autograd.grad(losses.sum(), b.policy)
    wanted_losses, wanted_grad = [], [0.0] * 5
    for members in ([1], [4], [0, 2, 3]):
        mean = sum(DATA["rewards"][i] for i in members) / len(members)
        u = {i: DATA["rewards"][i] - mean - 0.7 * H[i] for i in members}
        wanted_losses.append(sum(x * x for x in u.values()) / len(members))
        for i, x in u.items():
            wanted_grad[i] = -2 * 0.7 * x / len(members)
    assert losses.tolist() == pytest.approx(wanted_losses, rel=1e-12)
    assert grad.tolist() == pytest.approx(wanted_grad, rel=1e-12)


@pytest.mark.parametrize("beta", [3e-4, 1e-3])
def test_qrpo_at_the_papers_temperatures(beta):
    """``e^(1 / beta)`` overflows; to the last digit ``beta log Z = 1 + beta log beta`` there."""
    losses = QRPO(beta).losses(batch())
    wanted = [(q - 1 - beta * math.log(beta) - beta * h) ** 2 for q, h in zip(DATA["quantiles"], H, strict=True)]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("transform", ["identity", "log", "normal"])
def test_qrpo_partition_function(transform):
    """The mean over uniform quantiles of ``exp(f / beta)``; at ``h`` = 0 the residual reward is ``f - beta log Z``."""
    n, beta = 200_000, 0.8
    q = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    zeros = torch.zeros(n, dtype=torch.float64)
    b = SequenceBatch(zeros, zeros, torch.ones(n), {"quantiles": q})
    residual = QRPO(beta, transform, num_reference_samples=n)._residual_reward(b.data["quantiles"])
    assert torch.exp(residual / beta).mean().item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_stay_finite(case, dtype):
    objective, _ = CASES[case]
    policy, reference = [-1e5, -1e5, -1e4, 0.0, 0.0], [-9e4, -1.1e5, 0.0, -1e4, 0.0]
    b = batch(policy, reference, dtype)
    losses = objective.losses(b)
    (grad,) = torch.autograd.grad(losses.sum(), b.policy)
    assert losses.dtype == dtype
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


def test_partition_value_and_quantiles():
    r = [[0.1, 0.9, 0.4], [1.0, 1.0, -2.0]]
    z = [math.log(sum(math.exp(x / 0.5) for x in row) / 3) for row in r]
    rewards = torch.tensor(r, dtype=torch.float64)
    assert log_partition(rewards, 0.5).tolist() == pytest.approx(z, rel=1e-14)
    assert optimal_value(rewards).tolist() == pytest.approx([0.5 * x for x in z], rel=1e-14)
    assert bool(log_partition(rewards, 1e-6).isfinite().all())
    q = reward_quantiles(torch.tensor([0.4, 0.5], dtype=torch.float64), rewards)
    assert q.tolist() == pytest.approx([2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="reference_rewards"):
        reward_quantiles(torch.zeros(3), rewards)
    with pytest.raises(ValueError, match="tau"):
        log_partition(rewards, 0.0)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (RA, {"beta": 0.0}, "beta"),
        (GroupRegression, {"beta": -1.0}, "beta"),
        (DROV, {"beta": math.nan}, "beta"),
        (QRPO, {"transform": "cube"}, "transform"),
        (QRPO, {"transform": "log"}, "num_reference_samples"),
        (QRPO, {"num_reference_samples": 0}, "num_reference_samples"),
        (QRPO, {"loss": "cube"}, "loss"),
        (AStarPO, {"beta2": 0.0}, "beta2"),
        (UNA, {"mode": "scores"}, "did you mean 'score'"),
        (UNA, {"binary_loss": "x"}, "binary_loss"),
    ],
)
def test_hyper_parameters_are_checked(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls(**options)
    with pytest.raises(TypeError, match="drop_beta"):
        DROV(drop_beta=1)


def test_data_are_checked():
    with pytest.raises(ValueError, match=r"quantiles.*1.5 at position 0"):
        QRPO().check(batch(quantiles=[1.5, 0.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"rewards.*position 1"):
        UNA().check(batch(rewards=[0.5, -0.1, 0.0, 0.0, 0.0]))
    for objective in (DROV(), AStarPO()):
        with pytest.raises(ValueError, match=r"values: .* expected shape \[5\], found \[7\]"):
            objective.check(batch(values=torch.zeros(7)))
