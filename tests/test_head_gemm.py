"""Operands of a linear head in every combination of dtypes: values, gradients in each tensor's dtype, and logits that are not rounded."""

import itertools

import pytest
import torch

import fastpref
from fastpref.divergence import linear_token_kl
from tests import family, oracle

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
MIXED = [pair for pair in itertools.product(FLOATS, FLOATS) if pair[0] != pair[1]]


def leaf(tensor, dtype):
    return tensor.detach().to(dtype).requires_grad_()


def operands(hidden, weight, bias, rows=90, vocab=600):
    """A problem whose hidden states, weight and bias are exact in the dtypes named, and the same numbers in float64."""
    p = oracle.make_problem(torch.float64, [rows], vocab=vocab)
    given = [leaf(t, d) for t, d in zip((p.hidden, p.weight, p.bias), (hidden, weight, bias), strict=True)]
    return given, [leaf(t, torch.float64) for t in given], p.targets


def assert_gradients(given, exact, *dtypes):
    """Error against the oracle at most a few roundings of the narrowest operand of the gradients' GEMMs, relative to the norm."""
    unit = max(oracle.GRADIENT_ULPS * torch.finfo(torch.float32).eps, *(torch.finfo(d).eps for d in dtypes))
    for a, b in zip(given, exact, strict=True):
        narrow = max(unit, torch.finfo(a.dtype).eps)
        assert a.grad.dtype == a.dtype
        assert (a.grad.double() - b.grad).norm() <= narrow * b.grad.norm()


@pytest.mark.parametrize("blocks", ["whole", "small"])
@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize(("hidden", "weight"), MIXED, ids=str)
def test_hidden_and_weight_of_different_dtypes(hidden, weight, backend, blocks):
    given, exact, targets = operands(hidden, weight, weight)
    weights = torch.linspace(-1, 1, len(targets), dtype=torch.float64)

    def run(**options):
        return fastpref.linear_logprobs(*given[:2], targets, bias=given[2], backend=backend, **options)

    budget = None if blocks == "whole" else family.refused_budget(run)
    out = run(budget_bytes=budget)
    assert (run(budget_bytes=budget, explain=True).row_block < 69) == (blocks == "small")
    wanted = oracle.token_logps(*exact, targets)
    assert (out.logps - wanted).abs().max() < 1e-5  # exact logits: no 16-bit rounding in them
    for logps in (out.logps, wanted):
        (logps.double() @ weights).backward()
    # The operands' promotion is float32: each gradient is rounded once, to its own dtype.
    assert_gradients(given, exact, torch.float32)


@pytest.mark.parametrize("bias", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_bias_of_another_dtype(dtype, bias):
    given, exact, targets = operands(dtype, dtype, bias)
    found = fastpref.linear_logprobs(*given[:2], targets, bias=given[2]).logps
    wanted = oracle.token_logps(*exact, targets)
    assert (found - wanted).abs().max() < 1e-5
    found.sum().backward()
    wanted.sum().backward()
    assert_gradients(given, exact, dtype)


@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_a_preference_loss_whose_reference_has_its_own_dtypes(plan):
    p = oracle.make_problem(torch.bfloat16, [8, 9, 7, 10])
    given = [leaf(p.hidden, torch.bfloat16), leaf(p.weight, torch.float32), leaf(p.bias, torch.float16)]
    exact = p.at(torch.float64)
    reference = (p.ref_hidden.float(), p.ref_weight, p.ref_bias.float())
    out = fastpref.linear_preference_loss(
        "sigmoid", *given[:2], p.targets, p.cu_seqlens, bias=given[2], reference=reference, beta=0.3, plan=plan
    )
    wanted = oracle.linear_dpo(exact, 0.3)
    assert out.plan.design == plan
    assert abs(out.loss.item() - wanted.item()) < 1e-5
    out.loss.backward()
    wanted.backward()
    assert_gradients(given, [exact.hidden, exact.weight, exact.bias], torch.float32)


def test_a_divergence_of_heads_of_different_dtypes():
    p = oracle.make_problem(torch.bfloat16, [12], ignored=0.0)
    q = p.at(torch.float64)
    hidden, weight = leaf(p.hidden, torch.float32), leaf(p.weight, torch.bfloat16)
    out = linear_token_kl(hidden, weight, p.targets, reference=(p.ref_hidden, p.ref_weight.float()))
    log_p, log_q = ((x @ w.t()).log_softmax(-1) for x, w in ((q.hidden, q.weight), (q.ref_hidden, q.ref_weight)))
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    assert (out.kl - kl).abs().max() < 1e-5
    out.kl.sum().backward()
    kl.sum().backward()
    assert_gradients([hidden, weight], [q.hidden, q.weight], torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_log_ratio_of_a_long_sequence_in_16_bits(dtype, plan):
    torch.manual_seed(0)
    rows, width, vocab = 1024, 256, 4000
    hidden = torch.randn(rows, width).to(dtype)
    weight = (torch.randn(vocab, width) * 8 / width**0.5).to(dtype)
    targets = (hidden.float() @ weight.float().t()).argmax(-1)  # large logits, where a 16-bit rounding is coarse
    near = (weight + 0.01 * torch.randn(vocab, width)).to(dtype)
    ends = torch.tensor([0, 512, 1024], dtype=torch.int32)
    out = fastpref.linear_preference_loss(
        "sigmoid", hidden.requires_grad_(), weight, targets, ends, reference=(hidden.detach(), near), plan=plan
    )  # fmt: skip
    ratio = out.logps - out.ref_logps

    def sums(to):
        logps = (oracle.token_logps(hidden.detach().to(to), w.to(to), None, targets) for w in (weight, near))
        policy, reference = (oracle.sequence_logps(v.double(), ends) for v in logps)
        return policy - reference

    exact = sums(torch.float64)
    assert (ratio - exact).abs().max() < 1e-3
    assert (sums(dtype) - exact).abs().max() > (0.5 if dtype == torch.bfloat16 else 0.02)


def test_float16_logits_do_not_overflow():
    hidden, weight = torch.full((2, 64), 60.0), torch.full((5, 64), 30.0)
    weight[0] = -30.0
    weight[3] = 30.5
    given = leaf(hidden, torch.float16), leaf(weight, torch.float16)  # logits of 117120, beyond 65504
    out = fastpref.linear_logprobs(*given, torch.tensor([3, 3]))
    out.logps.sum().backward()
    assert torch.equal(out.logps, torch.zeros(2))
    assert all(t.grad.isfinite().all() for t in given)


def test_autocast_makes_one_dtype_of_them():
    given, _, targets = operands(torch.float32, torch.bfloat16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fastpref.linear_logprobs(*given[:2], targets, bias=given[2]).logps
    narrow = [t.detach().bfloat16() for t in given]
    assert torch.equal(found, fastpref.linear_logprobs(*narrow[:2], targets, bias=narrow[2]).logps)
    found.sum().backward()
    assert [t.grad.dtype for t in given] == [t.dtype for t in given]


@pytest.mark.parametrize(
    ("hidden", "weight", "bias", "words"),
    [
        (torch.float64, torch.float32, None, ["weight", "torch.float64", "torch.float32"]),
        (torch.bfloat16, torch.float64, None, ["weight", "bfloat16", "torch.float64"]),
        (torch.float32, torch.float32, torch.float64, ["bias", "torch.float64"]),
        (torch.float32, torch.float8_e4m3fn, None, ["weight", "float8_e4m3fn"]),
    ],
)
def test_what_does_not_go_together(hidden, weight, bias, words):
    x, w = torch.zeros(2, 4, dtype=hidden), torch.zeros(3, 4).to(weight)
    b = None if bias is None else torch.zeros(3, dtype=bias)
    with pytest.raises(TypeError) as raised:
        fastpref.linear_logprobs(x, w, torch.tensor([0, 1]), bias=b)
    for word in words:
        assert word in str(raised.value)


def test_operators_know_mixed_dtypes():
    given, _, targets = operands(torch.bfloat16, torch.float32, torch.float16, rows=9, vocab=50)
    ids = targets.masked_fill(targets < 0, -1)
    args = (*given, ids, None, 1.0, None, 1.0, 128, 64, "eager")
    torch.library.opcheck(torch.ops.fastpref.linear_logprobs, args)
    a = torch.ones(9)
    coefs, kept = (a, a.clone(), a.clone()), (None, 0, None)
    parts = (*(t.detach() for t in given), ids, None, *coefs, 1.0, None, 1.0, 128, 64, "eager", *kept)
    for needs in ([True, True, True], [True, False, False], [False, True, False]):
        torch.library.opcheck(torch.ops.fastpref.linear_logprobs_backward, (*parts, needs))
