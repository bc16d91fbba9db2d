"""Losses that couple the pairs of a call: sorts, running statistics and draws."""

import io
import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from .plain import EXTREME, MODERATE, Pair, batch_of, losses_and_derivatives, make, sigmoid, softplus


def ranks(values):
    """The rank of each value, ascending."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(i) for i in range(len(values))]


def cdpo(z, eps):
    return (1 - eps) * softplus(-z) + eps * softplus(z), eps * sigmoid(z) - (1 - eps) * sigmoid(-z)


@pytest.mark.parametrize("hyper", [{}, {"beta": 0.4, "label_smoothing": 0.2, "ld_alpha": 0.5}])
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_aot(name, hyper):
    objective, beta, eps = make(name, **hyper), hyper.get("beta", 0.1), hyper.get("label_smoothing", 0.0)
    if name == "aot":
        upper, lower = [p.lw - p.ll for p in MODERATE], [p.rw - p.rl for p in MODERATE]
        to_chosen, to_rejected = ranks(upper), ranks(upper)
    else:
        upper, lower = [p.hw for p in MODERATE], [p.hl for p in MODERATE]
        to_chosen, to_rejected = ranks(upper), ranks(lower)
    by_rank = [cdpo(beta * (m - n), eps) for m, n in zip(sorted(upper), sorted(lower), strict=True)]
    losses, a_w, a_l = losses_and_derivatives(objective, batch_of(objective, MODERATE))
    assert losses == pytest.approx([loss for loss, _ in by_rank], rel=1e-9)
    assert a_w == pytest.approx([beta * by_rank[r][1] for r in to_chosen], rel=1e-9)
    assert a_l == pytest.approx([-beta * by_rank[r][1] for r in to_rejected], rel=1e-9)


def test_aot_refuses_wpo_weights():
    with pytest.raises(ValueError, match="use_weighting: expected False"):
        make("aot", use_weighting=True)
    with pytest.raises(ValueError, match="label_smoothing: expected"):
        make("aot_unpaired", label_smoothing=0.6)


def stepped(objective, batch, state):
    """The batch with the state of its call."""
    return replace(batch, state=objective.next_state(replace(batch, state=state)))


def test_beta_dpo_value_derivative_and_statistics():
    objective = make("beta_dpo", beta=0.2, a=0.5, mode_weight=0.3)
    state, mean, deviation = objective.initial_state(), 0.0, 0.0
    for call in range(3):
        pairs = MODERATE[4 * call : 4 * call + 5]
        batch = stepped(objective, batch_of(objective, pairs), state)
        state = batch.state
        d = [p.d for p in pairs]
        here = sum(d) / 5
        spread = math.sqrt(sum((x - here) ** 2 for x in d) / 4)
        # The first call sets the running statistics to its own.
        mean, deviation = (here, spread) if call == 0 else (0.9 * mean + 0.1 * here, 0.9 * deviation + 0.1 * spread)
        assert state["mean"].item() == pytest.approx(mean, rel=1e-12)
        assert state["deviation"].item() == pytest.approx(deviation, rel=1e-12)
        assert state["draws"].item() == call + 1
        kept = objective.kept(torch.tensor(d, dtype=torch.float64), state).tolist()
        assert sum(kept) == 3  # floor(0.7 * 5)
        beta = max(1e-3, 0.2 * (1 + 0.5 * (sum(x for x, k in zip(d, kept, strict=True) if k) / 3 - mean)))
        losses, a_w, a_l = losses_and_derivatives(objective, batch)
        assert losses == pytest.approx([k * softplus(-beta * x) for x, k in zip(d, kept, strict=True)], rel=1e-9)
        assert a_w == pytest.approx([-k * beta * sigmoid(-beta * x) for x, k in zip(d, kept, strict=True)], rel=1e-9)
        assert a_l == pytest.approx([-a for a in a_w], rel=1e-12)
        assert objective.metrics(batch)["beta"].item() == pytest.approx(beta, rel=1e-9)


def test_beta_dpo_draws_are_those_of_a_resumed_run():
    objective = make("beta_dpo", mode_weight=0.5)
    batch = batch_of(objective, MODERATE)
    state, kept = objective.initial_state(), []
    for _ in range(4):
        state = stepped(objective, batch, state).state
        saved = io.BytesIO()
        torch.save(state, saved)
        saved.seek(0)
        kept.append((objective.losses(replace(batch, state=state)) != 0).tolist())
        resumed = torch.load(saved, weights_only=True)
        assert (objective.losses(replace(batch, state=resumed)) != 0).tolist() == kept[-1]
    assert len(set(map(tuple, kept))) > 1
    other = make("beta_dpo", mode_weight=0.5, seed=1)
    assert (other.losses(replace(batch, state=state)) != 0).tolist() != kept[-1]


def test_beta_dpo_draws_without_replacement_by_weight():
    """Frequencies of the kept sets against successive draws with the weights of what is left."""
    objective = make("beta_dpo", mode_weight=0.4)
    margins = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    state = {"mean": torch.tensor(0.2), "deviation": torch.tensor(1.1)}
    weights = [math.exp(-0.5 * ((x - 0.2) / 1.1) ** 2) for x in margins.tolist()]
    expected: Counter[tuple[int, ...]] = Counter()
    for first, second in itertools.permutations(range(4), 2):
        probability = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        expected[tuple(sorted((first, second)))] += probability
    draws = 3000
    seen = Counter(
        tuple(objective.kept(margins, {**state, "draws": torch.tensor(i)}).nonzero().flatten().tolist())
        for i in range(draws)
    )
    for kept, probability in expected.items():
        assert seen[kept] / draws == pytest.approx(probability, abs=4 * math.sqrt(probability / draws))


@pytest.mark.parametrize("pairs", [MODERATE[:1], [MODERATE[0]] * 4, EXTREME])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "beta_dpo"])
def test_extremes_are_finite(name, dtype, pairs):
    objective = make(name)
    batch = stepped(objective, batch_of(objective, pairs, dtype), objective.initial_state())
    losses, a_w, a_l = losses_and_derivatives(objective, batch)
    assert all(map(math.isfinite, [*losses, *a_w, *a_l]))
    assert all(torch.isfinite(v) for v in batch.state.values())


def test_beta_dpo_temperature_stays_above_its_floor():
    objective = make("beta_dpo", a=100.0)
    margins = torch.tensor([-5.0, -5.0], dtype=torch.float64)
    used = objective.temperature(margins, torch.tensor([True, True]), {"mean": torch.tensor(5.0)})
    assert used.item() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("hyper", "error"),
    [
        ({"a": -1.0}, ValueError),
        ({"mode_weight": 1.0}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 0.5}, TypeError),
    ],
)
def test_hyper_parameters_are_checked(hyper, error):
    with pytest.raises(error, match=f"{next(iter(hyper))}: expected"):
        make("beta_dpo", **hyper)


def test_one_pair_is_cdpo():
    for name in ("aot", "aot_unpaired"):
        hyper = {"beta": 0.3, "label_smoothing": 0.1}
        pair = [Pair(-3.0, -4.0, -3.5, -3.0)]
        sorted_, plain = make(name, **hyper), make("cdpo", **hyper)
        assert sorted_.losses(batch_of(sorted_, pair)).item() == pytest.approx(
            plain.losses(batch_of(plain, pair)).item(), rel=1e-14
        )
