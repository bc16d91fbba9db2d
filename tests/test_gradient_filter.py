"""Gradient filtering and rows without a coefficient: the GEMM work that is left, and the error against the exact gradients."""

import pytest
import torch

import fastpref
from fastpref import backends, work
from fastpref.backends import LogitTransform
from fastpref.gradient_filter import BLOCK, GradientFilter
from fastpref.linear_head import Head, Kept, Needs, Tiling, WeightGradient, gradients, kept_buffer, statistics
from fastpref.scratch import take
from tests import oracle


def peaked(dtype, rows=64, width=128, vocab=2000):
    """Rows that are nearly sure of targets among the first 200 ids."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, width, generator=g) / width**0.5
    targets = torch.randint(0, 200, (rows,), generator=g)
    hidden = 0.3 * torch.randn(rows, width, generator=g) + 20.0 * weight[targets]
    targets[::9] = -100
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [64, 300])
@pytest.mark.parametrize("budget", [None, 1_500_000])
def test_what_is_left_out_is_within_the_bound(dtype, rows, budget):
    threshold = 2.0**-12
    hidden, weight, targets = peaked(dtype, rows)
    if dtype == torch.float64:
        budget = None
    grads = []
    for chosen in (None, threshold):
        hidden.grad = weight.grad = None
        logps = fastpref.linear_logprobs(hidden, weight, targets, gradient_filter=chosen, budget_bytes=budget).logps
        logps.sum().backward()
        grads.append((hidden.grad.double(), weight.grad.double(), logps))
    (dx, dw, logps), (dx_f, dw_f, logps_f) = grads
    torch.testing.assert_close(logps, logps_f, rtol=1e-5, atol=1e-5)  # the budget may hold another tiling
    assert not torch.equal(dw, dw_f)
    # |dX - dX'| <= threshold * sum_v |W[v]|, |dW - dW'| <= threshold * sum_t |X[t]|, and the roundings of the dtype.
    slack = torch.finfo(dtype).eps * 4
    used = targets >= 0
    bound_x = threshold * weight.detach().double().abs().sum(0) + slack * dx.abs().amax()
    bound_w = threshold * hidden.detach().double()[used].abs().sum(0) + slack * dw.abs().amax()
    assert ((dx - dx_f).abs() <= bound_x).all()
    assert ((dw - dw_f).abs() <= bound_w).all()


def run(threshold, coef, dtype=torch.float32):
    """dX, dW and the FLOPs of the gradients' loop from kept logits."""
    hidden, weight, targets = (t.detach() for t in peaked(dtype))
    targets = targets.masked_fill(targets < 0, -1)
    head = Head(weight, None, LogitTransform(), backends.select("eager", hidden.device, torch.float32))
    rows, tiling = hidden.shape[0], Tiling(512, 64, 64)
    kept = Kept(kept_buffer(head, hidden, rows), rows)
    lse = statistics(head, hidden, targets, tiling, kept).lse
    needs = Needs(True, True, False)
    into = WeightGradient.start(head, needs)
    with work.count_gemm() as count:
        dx = gradients(head, hidden, targets, lse, coef, coef, tiling, needs, into, kept, gradient_filter=threshold)
    return dx, into.finish(head)[0], count.flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_work_that_is_left(dtype):
    coef = torch.linspace(-1, 1, 64)
    full = 4 * 64 * 128 * 2000
    _, _, exact = run(None, coef, dtype)
    _, _, kept = run(2.0**-10, coef, dtype)
    assert exact == full
    assert kept == 4 * 64 * 128 * 2 * BLOCK  # the targets' blocks are the first two
    _, _, everything = run(1e-30, coef, dtype)
    assert everything == full


def test_a_threshold_that_keeps_everything_changes_no_bit():
    coef = torch.linspace(-1, 1, 64)
    for a, b in zip(run(None, coef)[:2], run(1e-30, coef)[:2], strict=True):
        assert torch.equal(a, b)


def test_nan_rows_are_kept_and_ignored_rows_are_not_looked_at():
    logits = torch.full((3, 2 * BLOCK), -50.0)
    logits[0, 5], logits[1, 7], logits[2, 200] = 0.0, torch.nan, torch.nan
    lse = torch.zeros(3)

    def columns(targets):
        (piece,) = GradientFilter(1e-3, torch.tensor(targets), lse, LogitTransform()).pieces(
            logits, (0, 256), slice(0, 3)
        )
        return piece[1]

    assert torch.equal(columns([5, 7, -1]), torch.arange(BLOCK))
    assert columns([5, 7, 200]) is None
    assert columns([5, 130, -1]) is None


@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_preference_loss_with_a_filter(plan, dtype):
    hidden, weight, targets = peaked(dtype)
    ends = torch.tensor([0, 20, 30, 50, 64], dtype=torch.int32)
    grads = []
    for threshold in (None, 2.0**-12):
        hidden.grad = weight.grad = None
        out = fastpref.linear_preference_loss(
            "sigmoid", hidden, weight, targets, ends, reference=torch.zeros(4), plan=plan, gradient_filter=threshold
        )
        out.loss.backward(retain_graph=True)
        first = weight.grad.clone()
        out.loss.backward()
        # A plan that makes its gradients again cuts other blocks, and may leave out others.
        assert (weight.grad - 2 * first).norm() < (1e-4 if dtype == torch.float32 else 1e-2) * first.norm()
        grads.append(first)
    assert not torch.equal(*grads)
    assert (grads[0] - grads[1]).norm() < 0.1 * grads[0].norm()


@pytest.mark.parametrize(
    ("threshold", "error"),
    [(0.0, ValueError), (1.0, ValueError), (float("nan"), ValueError), ("x", TypeError), (True, TypeError)],
)
def test_thresholds_that_are_refused(threshold, error):
    hidden, weight, targets = peaked(torch.float32)
    with pytest.raises(error, match="gradient_filter"):
        fastpref.linear_logprobs(hidden, weight, targets, gradient_filter=threshold)


def test_objectives_over_the_vocabulary_refuse_it():
    p = oracle.make_problem(torch.float32, [5, 6])
    for name, value in (("gradient_filter", 1e-3), ("main_grad", torch.zeros_like(p.weight))):
        with pytest.raises(ValueError, match=f"{name}: .*KL"):
            fastpref.linear_preference_loss(
                "tdpo2", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference, **{name: value}
            )  # fmt: skip


@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_what_scratch_held_before_does_not_matter(plan):
    """A vocabulary that is no multiple of a block: nothing beyond its end may decide what is left out."""
    ends, found = torch.tensor([0, 20, 30, 50, 64], dtype=torch.int32), []
    for held in (0x00, 0x7F):  # zeros; bfloat16 3.4e38
        hidden, weight, targets = peaked(torch.bfloat16)
        take(8 << 20, torch.uint8, hidden.device).fill_(held)
        out = fastpref.linear_preference_loss(
            "sigmoid", hidden, weight, targets, ends, reference=torch.zeros(4), plan=plan, gradient_filter=2.0**-12
        )
        out.loss.backward()
        found.append((hidden.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
