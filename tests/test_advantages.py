"""Advantages against plain loops."""

import math
import statistics

import pytest
import torch

from fastpref.advantages import gae, group_relative, kl_in_reward, leave_one_out, whiten

LENGTHS = [1, 5, 2, 33, 8]
CU = torch.tensor([0, 1, 6, 8, 41, 49], dtype=torch.int32)
T = 49


def rows(seed):
    return torch.randn(T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0), (0.0, 0.95)])
def test_gae(gamma, lam):
    rewards, values = rows(0), rows(1)
    advantages, returns = gae(rewards, values, CU, gamma, lam)
    wanted = [0.0] * T
    for start, end in zip(CU.tolist(), CU.tolist()[1:], strict=False):
        carry = 0.0
        for t in reversed(range(start, end)):
            following = values[t + 1].item() if t + 1 < end else 0.0
            carry = rewards[t].item() + gamma * following - values[t].item() + gamma * lam * carry
            wanted[t] = carry
    assert advantages.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-13)
    torch.testing.assert_close(returns, advantages + values)


def test_gae_keeps_dtype_and_graph_out():
    advantages, returns = gae(rows(0).float(), rows(1).float().requires_grad_(), CU)
    assert advantages.dtype == returns.dtype == torch.float32
    assert not advantages.requires_grad


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_in_reward(estimator):
    logps, ref, scores = rows(2), rows(3), torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    rewards = kl_in_reward(scores, logps, ref, CU, kl_coef=0.1, estimator=estimator)
    ends = {e - 1: k for k, e in enumerate(CU.tolist()[1:])}
    for t in range(T):
        d = (ref[t] - logps[t]).item()
        k = -d if estimator == "k1" else math.exp(d) - d - 1
        wanted = -0.1 * k + (scores[ends[t]].item() if t in ends else 0.0)
        assert rewards[t].item() == pytest.approx(wanted, rel=1e-12, abs=1e-14)


def test_whiten():
    x = rows(4)
    active = rows(5) > 0
    found = whiten(x.masked_fill(~active, math.nan), active)
    kept = x[active].tolist()
    mean, std = statistics.mean(kept), math.sqrt(statistics.variance(kept) + 1e-8)
    assert found[active].tolist() == pytest.approx([(v - mean) / std for v in kept], rel=1e-12, abs=1e-14)
    assert found[~active].eq(0).all()
    scaled = whiten(x, shift_mean=False)
    torch.testing.assert_close(scaled, whiten(x) + x.mean())
    with pytest.raises(ValueError, match="at least two"):
        whiten(torch.ones(1))


REWARDS = [0.5, 1.0, -2.0, 0.25, 3.0, 3.0, 7.0]
GROUPS = [3, -1, 3, 3, -1, 5, -1]
MEMBERS = [[0, 2, 3], [1, 4, 6], [5]]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_relative(scale):
    found = group_relative(torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(GROUPS), scale)
    for members in MEMBERS:
        mine = [REWARDS[i] for i in members]
        std = {"group": statistics.stdev(mine) if len(mine) > 1 else 0.0, "batch": statistics.stdev(REWARDS)}
        divisor = 1.0 if scale == "none" else std[scale] + 1e-4
        for i in members:
            wanted = (REWARDS[i] - statistics.mean(mine)) / divisor
            assert found[i].item() == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_leave_one_out():
    found = leave_one_out(torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(GROUPS))
    for members in MEMBERS:
        for i in members:
            others = [REWARDS[j] for j in members if j != i]
            wanted = REWARDS[i] - statistics.mean(others) if others else 0.0
            assert found[i].item() == pytest.approx(wanted, rel=1e-12)


def test_normalised_leave_one_out():
    rewards, groups = torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(GROUPS)
    plain, found = leave_one_out(rewards, groups).tolist(), leave_one_out(rewards, groups, True)
    kept = [plain[i] for members in MEMBERS[:2] for i in members]
    for i, value in enumerate(plain):
        wanted = 0.0 if i in MEMBERS[2] else (value - statistics.mean(kept)) / (statistics.stdev(kept) + 1e-4)
        assert found[i].item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_have_no_advantage(scale):
    found = group_relative(torch.full((4,), 0.7), torch.tensor([0, 0, 1, 1]), scale)
    assert found.abs().max().item() < 1e-6
    assert found.dtype == torch.float32


def test_samples_without_a_score_count_for_nothing():
    holes = torch.tensor([*REWARDS, math.nan, math.nan], dtype=torch.float64)
    groups = torch.tensor([*GROUPS, 3, 8])
    for scale in ("group", "batch", "none"):
        whole = group_relative(torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(GROUPS), scale)
        torch.testing.assert_close(group_relative(holes, groups, scale), torch.cat([whole, torch.zeros(2).double()]))
    whole = leave_one_out(torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(GROUPS))
    torch.testing.assert_close(leave_one_out(holes, groups), torch.cat([whole, torch.zeros(2).double()]))


def test_arguments_are_checked():
    x = torch.zeros(T)
    with pytest.raises(ValueError, match="lam"):
        gae(x, x, CU, lam=1.5)
    with pytest.raises(ValueError, match="values"):
        gae(x, x[1:], CU)
    with pytest.raises(ValueError, match="cu_seqlens"):
        gae(x[1:], x[1:], CU)
    with pytest.raises(ValueError, match="scores"):
        kl_in_reward(torch.zeros(4), x, x, CU)
    with pytest.raises(ValueError, match="estimator"):
        kl_in_reward(torch.zeros(5), x, x, CU, estimator="k2")
    with pytest.raises(ValueError, match="scale_rewards"):
        group_relative(x, x, "groups")
    with pytest.raises(ValueError, match="groups"):
        leave_one_out(x, x[1:])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: group_relative(torch.zeros(2), torch.tensor([0.2, 0.9])),
            TypeError,
            "groups: expected an integer dtype",
        ),
        (lambda: group_relative(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), ValueError, "at least one"),
        (
            lambda: whiten(torch.zeros(3), torch.ones(3, dtype=torch.int64)),
            TypeError,
            "active: expected dtype torch.bool",
        ),
    ],
)
def test_clear_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
