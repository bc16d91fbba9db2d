"""The public functions of each backend for GPUs against full logits in float64, and against plain torch's own error in the same dtype."""

from __future__ import annotations

import pytest
import torch

import fastpref
from fastpref.backends.base import STATISTICS
from tests import oracle

from .problems import judge_gradients, on

pytestmark = pytest.mark.gpu

BETA = 0.3
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS = {
    "plain": {},
    "softcap and temperature": {"softcap": 6.0, "temperature": 0.7},
    "scale": {"logit_scale": 0.5},
}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def exact_float32():
    """Plain torch is the yardstick: its float32 products are float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def problem(device, dtype: torch.dtype, bias: bool = True) -> oracle.Problem:
    lengths = device.pick([700, 300, 513, 1, 900, 77], [7, 3, 12, 1])
    hidden, vocab = device.pick((256, 50257), (24, 301))
    return on(oracle.make_problem(dtype, lengths, hidden, vocab, bias), device.torch)


def rows_of_logits(device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[R, V]`` with a row stride above V, and targets of which some are ignored."""
    rows, vocab = device.pick((2000, 128256), (5, 1003))
    generator = torch.Generator(device.torch).manual_seed(0)
    padded = torch.randn(rows, vocab + 13, generator=generator, device=device.torch).mul_(3).to(dtype)
    targets = torch.randint(0, vocab, (rows,), generator=generator, device=device.torch)
    targets[1::4] = -100
    return padded[:, :vocab], targets


def plain_logprobs(logits: torch.Tensor, targets: torch.Tensor, **options: float) -> torch.Tensor:
    picked = oracle.transform(logits, **options).log_softmax(-1).gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1)
    return picked.masked_fill(targets < 0, 0.0)


@dtypes
@pytest.mark.parametrize(
    ("options", "inplace"), [("plain", False), ("plain", True), ("softcap and temperature", True), ("scale", False)]
)
def test_logprobs(device, backend, dtype, options, inplace):
    options = OPTIONS[options]
    logits, targets = rows_of_logits(device, dtype)
    weights = torch.linspace(-1, 1, len(targets), device=device.torch)
    found = []
    for value in (logits.double(), logits):  # float64, and the dtype itself
        leaf = value.detach().clone().requires_grad_()
        logps = plain_logprobs(leaf, targets, **options)
        (logps * weights).sum().backward()
        found.append((logps.detach(), leaf.grad))
    (exact, exact_grad), (plain, plain_grad) = found
    leaf = logits.detach().clone().requires_grad_()
    out = fastpref.logprobs(leaf * 1, targets, backend=backend, inplace_backward=inplace, **options)
    (out.logps * weights).sum().backward()
    oracle.assert_precise(out.logps, exact, plain, oracle.LOSS_FACTOR, ulps=32, what="log-probs")
    oracle.assert_precise(leaf.grad, exact_grad, plain_grad, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)
    assert (out.logps[targets < 0] == 0).all()
    assert (leaf.grad[targets < 0] == 0).all()


@dtypes
def test_statistics(device, backend, dtype):
    logits, targets = rows_of_logits(device, dtype)
    out = fastpref.logprobs(logits, targets, backend=backend, stats=STATISTICS)
    z = logits.double()
    p, active = z.softmax(-1), targets >= 0
    wanted = {
        "lse": z.logsumexp(-1),
        "entropy": -(p * z.log_softmax(-1)).sum(-1),
        "log_sum_sq_probs": (2 * z.log_softmax(-1)).logsumexp(-1),
        "mean_logit": z.mean(-1),
    }
    for name, exact in wanted.items():
        found = getattr(out, name).double()
        assert (found[~active] == 0).all()
        torch.testing.assert_close(found[active], exact[active], rtol=2e-5, atol=2e-5)
    assert torch.equal(out.argmax[active], logits.float().argmax(-1)[active])


@dtypes
@pytest.mark.parametrize(("plan", "bias"), [("D0", True), ("D3", False)])
def test_linear_logprobs(device, backend, dtype, bias, plan):
    p = problem(device, dtype, bias)
    weights = torch.linspace(-1, 1, len(p.targets), device=device.torch)
    options = {"softcap": 6.0, "temperature": 0.7}
    exact, plain = p.at(torch.float64), p.at(dtype)
    values = []
    for q in (exact, plain):
        values.append(oracle.token_logps(q.hidden, q.weight, q.bias, q.targets, **options))
        (values[-1] * weights).sum().backward()
    out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias, plan=plan, backend=backend, **options)
    (out.logps * weights).sum().backward()
    oracle.assert_precise(out.logps, *values, oracle.LOSS_FACTOR, ulps=32, what="log-probs")
    judge_gradients(p, exact, plain)


@dtypes
@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_linear_preference_loss(device, backend, dtype, plan):
    p = problem(device, dtype)
    exact, plain = p.at(torch.float64), p.at(dtype)
    wanted, usual = oracle.linear_dpo(exact, BETA), oracle.linear_dpo(plain, BETA)
    wanted.backward()
    usual.backward()
    # D1 and D2 have to know the boundaries of the sequences on the host.
    out = fastpref.linear_preference_loss(
        "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens.cpu(), bias=p.bias, reference=p.reference, beta=BETA,
        plan=plan, backend=backend, budget_bytes=device.pick(2 << 30, None),
    )  # fmt: skip
    out.loss.backward()
    oracle.assert_precise(out.loss, wanted, usual, oracle.LOSS_FACTOR, what="loss")
    judge_gradients(p, exact, plain)


@dtypes
def test_a_policy_that_is_its_reference_has_margin_0_and_the_same_bits_twice(device, backend, dtype):
    p = problem(device, dtype)
    same = tuple(t.detach().clone() for t in (p.hidden, p.weight, p.bias))
    found = []
    for _ in range(2):
        p = problem(device, dtype)
        out = fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=same, beta=BETA,
            plan="D0", backend=backend,
        )  # fmt: skip
        out.loss.backward()
        assert torch.equal(out.logps, out.ref_logps)
        assert out.metrics["rewards/margins"].item() == 0.0
        assert out.loss.item() == torch.tensor(2.0).log().item()
        found.append((out.loss, *p.grads()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
