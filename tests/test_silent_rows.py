"""Rows whose coefficients are exactly 0 have no part in the gradients' GEMMs; NaN coefficients do."""

import pytest
import torch

import fastpref
from fastpref import linear_head, token_logprobs
from fastpref.backends.base import LogitTransform
from fastpref.backends.cpu_head import CpuHead
from fastpref.divergence import linear_token_kl
from tests import family, oracle


@pytest.fixture
def rows_seen(monkeypatch):
    """Rows of every call that forms gradients, by the loops over chunks and by the native head."""
    seen, loops, native = [], linear_head.backpropagate, CpuHead.gradients

    def by_loops(head, hidden, *args, **kwargs):
        seen.append(hidden.shape[0])
        return loops(head, hidden, *args, **kwargs)

    def by_native(self, hidden, *args, **kwargs):
        seen.append(hidden.shape[0])
        return native(self, hidden, *args, **kwargs)

    monkeypatch.setattr(linear_head, "backpropagate", by_loops)
    monkeypatch.setattr(CpuHead, "gradients", by_native)
    return seen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_they_are_compacted_away(dtype, rows_seen):
    p = oracle.make_problem(dtype, [40])
    exact, plain = p.at(torch.float64), p.at(dtype)
    upstream = torch.linspace(-1, 1, 40, dtype=torch.float64)
    upstream[5:25] = 0.0
    out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias, plan="D0")
    (out.logps.double() @ upstream).backward()
    for q in (exact, plain):
        (oracle.token_logps(q.hidden, q.weight, q.bias, q.targets).double() @ upstream).backward()
    assert rows_seen == [int(((upstream != 0) & (p.targets >= 0)).sum())]
    for a, b, c in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("silent", "kept_rows", "left"),
    [
        (slice(40, 60), 32, 50),  # none of them kept
        (slice(0, 8), 32, 70),  # few of the kept ones: run with them
        (slice(0, 30), 32, 40),  # nearly all: what is kept is of no use
        (slice(0, 70), 70, 0),
    ],
)
def test_with_kept_logits(dtype, silent, kept_rows, left, rows_seen):
    p = oracle.make_problem(dtype, [70], ignored=0.0)
    exact, plain = p.at(torch.float64), p.at(dtype)
    upstream = torch.linspace(-1, 1, 70, dtype=torch.float64)
    upstream[silent] = 0.0
    operands = token_logprobs.check_linear(p.hidden, p.weight, p.bias)
    tiling = linear_head.Tiling(128, 16, kept_rows)
    found = token_logprobs.run_recompute(operands, p.targets, LogitTransform(), tiling, None, keep=True)[0]
    (found.logps.double() @ upstream).backward()
    for q in (exact, plain):
        (oracle.token_logps(q.hidden, q.weight, q.bias, q.targets).double() @ upstream).backward()
    assert sum(rows_seen) == left
    for a, b, c in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR)


def test_a_row_that_only_the_lse_reaches_is_kept(rows_seen):
    p = oracle.make_problem(torch.float64, [6], ignored=0.0)
    q = p.at(torch.float64)
    out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, plan="D0")
    (out.logps[0] + out.lse[1]).backward()
    assert rows_seen == [2]
    logits = q.hidden @ q.weight.t()
    (logits[0].log_softmax(-1)[q.targets[0]] + logits[1].logsumexp(-1)).backward()
    torch.testing.assert_close(p.weight.grad, q.weight.grad)
    torch.testing.assert_close(p.hidden.grad, q.hidden.grad)


def test_nan_is_not_0(rows_seen):
    p = oracle.make_problem(torch.float32, [6], ignored=0.0)
    upstream = torch.zeros(6)
    upstream[2] = torch.nan
    (fastpref.linear_logprobs(p.hidden, p.weight, p.targets, plan="D0").logps @ upstream).backward()
    assert rows_seen == [1]
    assert p.hidden.grad[2].isnan().all()
    assert (p.hidden.grad[[0, 1, 3, 4, 5]] == 0).all()


def test_divergences(rows_seen):
    p = oracle.make_problem(torch.float32, [6], ignored=0.0)
    out = linear_token_kl(p.hidden, p.weight, p.targets, reference=(p.ref_hidden, p.ref_weight))
    (out.kl[1] + out.logps[3]).backward()
    assert rows_seen == [2]
    assert (p.hidden.grad[[0, 2, 4, 5]] == 0).all()
    assert (p.hidden.grad[[1, 3]] != 0).any(-1).all()


@pytest.mark.parametrize("plan", ["D0", "D1"])
def test_a_satisfied_hinge_runs_no_gradient(plan, rows_seen):
    p = oracle.make_problem(torch.float32, [6, 7, 8, 9], ignored=0.0)
    reference = torch.tensor([-1e4, -10.0, -10.0, -1e4], dtype=torch.float64)  # margins far above and far below 0

    def run(**options):
        return fastpref.linear_preference_loss(
            "hinge", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=reference, beta=0.1, plan=plan,
            **options,
        )  # fmt: skip

    out = run(budget_bytes=None if plan == "D0" else family.refused_budget(run))  # that of a pair: two groups
    out.loss.backward()
    assert (out.losses == 0).tolist()[0]
    assert (out.losses[1] > 0).item()
    assert rows_seen == [16]  # of the second pair
    assert (p.hidden.grad[:6] == 0).all()
    assert (p.hidden.grad[13:21] == 0).all()
    assert (p.hidden.grad[6:13] != 0).any()


def test_no_row_at_all(rows_seen):
    p = oracle.make_problem(torch.bfloat16, [6])
    (fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias).logps * 0.0).sum().backward()
    assert sum(rows_seen) == 0
    assert all((g == 0).all() for g in p.grads())


def test_elsewhere_than_on_the_cpu_nothing_is_looked_at():
    targets = torch.zeros(3, dtype=torch.int64, device="meta")
    assert token_logprobs.contributing_rows(targets, torch.zeros(3, device="meta")) is None
