"""Losses on single labelled responses, against formulas written here."""

import io
import math
from dataclasses import replace

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch

from .plain import make, sigmoid, slope, softplus

H = [0.7, -1.5, -0.9, 1.5, 1e5, -1e5, 30.0]
DESIRABLE = [True, True, False, False, True, False, False]


def batch_of(h=H, desirable=DESIRABLE, dtype=torch.float64, state=None, **data) -> SequenceBatch:
    reference = torch.full((len(h),), -40.0, dtype=dtype)
    policy = (torch.tensor(h, dtype=dtype) + reference).requires_grad_()
    data = {"desirable": torch.tensor(desirable), **{k: torch.tensor(v) for k, v in data.items()}}
    return SequenceBatch(policy, reference, torch.ones(len(h), dtype=torch.int64), data, state=state or {})


def run(objective, batch):
    losses = objective.losses(batch)
    return losses.tolist(), torch.autograd.grad(losses.sum(), batch.policy)[0].tolist()


def kto(h, desirable, z0, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    x = beta * (h - z0)
    if desirable:
        return desirable_weight * sigmoid(-x), -desirable_weight * beta * slope(x)
    return undesirable_weight * sigmoid(x), undesirable_weight * beta * slope(x)


def bco(h, desirable, delta, beta=0.1, weight=1.0):
    x = beta * h - delta
    return (softplus(-x), -beta * sigmoid(-x)) if desirable else (weight * softplus(x), weight * beta * sigmoid(x))


def agrees(found, expected):
    for values, wanted in zip(found, zip(*expected, strict=True), strict=True):
        assert values == pytest.approx(wanted, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(("mismatched", "z0"), [([0.1, 0.3], 0.2), ([-3.0, 1.0], 0.0), ([5.0], 5.0)])
@pytest.mark.parametrize("hyper", [{}, {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.25}])
def test_kto(mismatched, z0, hyper):
    batch = batch_of(mismatched_log_ratios=[float(m) for m in mismatched])
    batch.data["mismatched_log_ratios"] = torch.tensor(mismatched, dtype=torch.float64).requires_grad_()
    objective = make("kto", **hyper)
    agrees(run(objective, batch), [kto(h, d, z0, **hyper) for h, d in zip(H, DESIRABLE, strict=True)])
    assert objective.metrics(batch)["kl"].item() == pytest.approx(z0)


@pytest.mark.parametrize("hyper", [{}, {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.25}])
def test_apo_zero_unpaired(hyper):
    found = run(make("apo_zero_unpaired", **hyper), batch_of())
    agrees(found, [kto(h, d, 0.0, **hyper) for h, d in zip(H, DESIRABLE, strict=True)])


@pytest.mark.parametrize("probs", [None, [0.5, 0.1, 0.2, 1.0, 0.5, 0.75, 0.0]])
def test_bco(probs):
    objective = make("bco", beta=0.2)
    state = {"reward_sum": torch.tensor(3.0, dtype=torch.float64), "reward_count": torch.tensor(12)}
    batch = batch_of(state=state, **({} if probs is None else {"desirable_probs": probs}))
    weights = [1.0] * len(H)
    if probs is not None:
        weights = [10.0 if p == 1 else min(max(p / (1 - p), 0.5), 10.0) for p in map(torch_float32, probs)]
    rows = zip(H, DESIRABLE, weights, strict=True)
    agrees(run(objective, batch), [bco(h, d, 0.25, 0.2, w) for h, d, w in rows])


def torch_float32(x):
    """The number that a default tensor holds."""
    return torch.tensor(x).item()


def test_bco_shift_is_the_mean_over_the_run_and_survives_a_checkpoint():
    objective = make("bco", beta=0.5)
    calls, seen = [[1.0, 3.0], [-2.0, 4.0, 6.0], [0.5]], []
    state = objective.initial_state()
    for h in calls:
        saved = io.BytesIO()
        torch.save(state, saved)
        saved.seek(0)
        state = torch.load(saved, weights_only=True)  # each call resumes from a checkpoint
        batch = batch_of(h, [True] * len(h), state=state)
        state = objective.next_state(batch)
        seen += h
        delta = 0.5 * sum(seen) / len(seen)
        batch = replace(batch, state=state)
        agrees(run(objective, batch), [bco(x, True, delta, 0.5) for x in h])
        assert objective.metrics(batch)["delta"].item() == pytest.approx(delta)
    assert state["reward_count"].item() == 6
    assert not state["reward_sum"].requires_grad


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired", "bco"])
def test_float32_extremes_are_finite(name):
    objective = make(name)
    batch = batch_of(dtype=torch.float32, mismatched_log_ratios=[1e5], state=objective.initial_state())
    batch = replace(batch, state=objective.next_state(batch))
    losses, grads = run(objective, batch)
    assert all(map(math.isfinite, [*losses, *grads]))


def test_metrics_by_label():
    metrics = make("apo_zero_unpaired").metrics(batch_of([1.0, 2.0, 6.0], [True, True, False]))
    assert metrics["rewards/chosen"].item() == pytest.approx(0.15)
    assert metrics["rewards/rejected"].item() == pytest.approx(0.6)
    assert metrics["rewards/margins"].item() == pytest.approx(-0.45)
    assert metrics["logps/rejected"].item() == pytest.approx(-34.0)
    assert make("apo_zero_unpaired").metrics(batch_of([1.0], [True]))["rewards/rejected"].isnan()


def test_kto_needs_a_mismatched_log_ratio():
    with pytest.raises(ValueError, match="mismatched_log_ratios: expected at least one"):
        make("kto").check(batch_of(mismatched_log_ratios=[]))


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("kto", {"beta": 0.0}),
        ("kto", {"desirable_weight": -1.0}),
        ("apo_zero_unpaired", {"undesirable_weight": -1.0}),
        ("bco", {"beta": 0.0}),
        ("bco", {"min_density_ratio": 0.0}),
        ("bco", {"max_density_ratio": 0.1}),
    ],
)
def test_hyper_parameters_are_checked(name, hyper):
    with pytest.raises(ValueError, match=f"{next(iter(hyper))}: expected"):
        make(name, **hyper)
