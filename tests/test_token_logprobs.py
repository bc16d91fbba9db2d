"""logprobs and linear_logprobs: values, gradients of both outputs, operator registration, and what they refuse."""

import math

import pytest
import torch

import fastpref
from fastpref.backends.base import STATISTICS
from tests import oracle

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPTIONS = [{}, {"softcap": 5.0}, {"temperature": 0.6, "logit_scale": 0.25}]


def rows(dtype, count=9, vocab=130, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(count, vocab, generator=g)).to(dtype)
    targets = torch.randint(0, vocab, (count,), generator=g)
    targets[::4] = -100
    return logits, targets


def plain(logits, targets, **options):
    z = oracle.transform(logits, **options)
    lse = z.logsumexp(-1)
    logps = z.gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1) - lse
    return logps.masked_fill(targets < 0, 0), lse.masked_fill(targets < 0, 0)


def differentiable(out):
    return out.logps, out.lse


def run(function, logits, targets, weights, **options):
    """Values, and the gradient of a functional that uses both outputs."""
    leaf = logits.detach().clone().requires_grad_()
    out = function(leaf, targets, **options)
    logps, lse = differentiable(out) if isinstance(out, fastpref.TokenLogProbs) else out
    (logps.double() @ weights + (lse.double() ** 2).sum() * 0.01).backward()
    return logps, lse, leaf.grad


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logprobs_agree_with_the_oracle(dtype, options):
    logits, targets = rows(dtype)
    weights = torch.linspace(-1, 1, len(targets), dtype=torch.float64)
    found = run(fastpref.logprobs, logits, targets, weights, **options)
    exact = run(plain, logits.double(), targets, weights, **options)
    usual = run(plain, logits, targets, weights, **options)
    for a, b, c, k in zip(found, exact, usual, (2, 2, 3), strict=True):
        oracle.assert_precise(a, b, c, k)
    assert found[2].dtype == dtype
    assert torch.equal(found[2][::4], torch.zeros_like(found[2][::4]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inplace_backward_gives_the_same_gradient_in_the_logits_memory(dtype):
    base, targets = rows(dtype)
    grads = []
    for inplace in (False, True):
        leaf = base.clone().requires_grad_()
        logits = leaf * 1
        address, kept = logits.data_ptr(), []
        logits.register_hook(kept.append)
        fastpref.logprobs(logits, targets, inplace_backward=inplace).logps.sum().backward()
        assert (kept[0].data_ptr() == address) is inplace
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_inplace_backward_refuses_a_leaf_and_a_second_use_is_caught():
    base, targets = rows(torch.float32)
    leaf = base.requires_grad_()
    with pytest.raises(ValueError, match="inplace_backward"):
        fastpref.logprobs(leaf, targets, inplace_backward=True)
    logits = leaf * 1
    loss = fastpref.logprobs(logits, targets, inplace_backward=True).logps.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inplace_backward_refuses_a_view_of_a_leaf():
    leaf = torch.zeros(6, 11, requires_grad=True)
    with pytest.raises(ValueError, match="view of one"):
        fastpref.logprobs(leaf.view(2, 3, 11), torch.zeros(2, 3, dtype=torch.int64), inplace_backward=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded rows", "expanded columns"])
def test_inplace_backward_of_logits_that_are_not_contiguous(layout, dtype):
    torch.manual_seed(0)
    make = {
        "transposed": lambda leaf: (leaf[:8, :40] * 1).t(),
        "strided": lambda leaf: (leaf * 1)[:, ::2],
        "expanded rows": lambda leaf: (leaf[:1] * 1).expand(8, 50),
        "expanded columns": lambda leaf: (leaf[:, :1] * 1).expand(8, 5000),
    }[layout]
    base = torch.randn(8, 50).to(dtype)
    grads = []
    for inplace in (False, True):
        leaf = base.clone().requires_grad_()
        logits = make(leaf)
        targets = torch.arange(logits.shape[0]) % logits.shape[1]
        fastpref.logprobs(logits, targets, inplace_backward=inplace).logps.sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_forward_mode_is_refused_instead_of_lost():
    p = oracle.make_problem(torch.float32, [5])
    logits, targets = rows(torch.float32)
    calls = (
        (lambda x: fastpref.linear_logprobs(x, p.weight, p.targets).logps.sum(), p.hidden.detach()),
        (lambda x: fastpref.logprobs(x, targets).logps.sum(), logits),
    )
    for call, x in calls:
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jvp(call, (x,), (torch.ones_like(x),))


def test_batched_shapes():
    logits, targets = rows(torch.float32, count=12)
    flat = fastpref.logprobs(logits, targets)
    batched = fastpref.logprobs(logits.view(3, 4, -1), targets.view(3, 4))
    assert batched.logps.shape == batched.lse.shape == (3, 4)
    assert torch.equal(batched.logps.flatten(), flat.logps)
    strided = torch.empty(12, 200)[:, :130].copy_(logits)
    assert torch.equal(fastpref.logprobs(strided, targets).logps, flat.logps)
    transposed = logits.t().contiguous().t()
    assert torch.equal(fastpref.logprobs(transposed, targets).logps, flat.logps)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_log_probability_near_0_keeps_its_digits(backend):
    logits = torch.zeros(1, 8)
    logits[0, 3] = 13.0
    out = fastpref.logprobs(logits, torch.tensor([3]), backend=backend)
    exact = -math.log1p(7 * math.exp(-13.0))
    assert out.logps.item() == pytest.approx(exact, rel=1e-2)
    assert (13.0 - out.lse).item() != pytest.approx(exact, rel=1e-2)  # what the plain difference would have lost


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_logprobs_agree_with_the_oracle(dtype, bias, options):
    p = oracle.make_problem(dtype, [20], bias=bias)
    weights = torch.linspace(-1, 1, 20, dtype=torch.float64)
    q, r = p.at(torch.float64), p.at(dtype)
    found = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias, **options).logps
    exact = oracle.token_logps(q.hidden, q.weight, q.bias, q.targets, **options)
    usual = oracle.token_logps(r.hidden, r.weight, r.bias, r.targets, **options)
    oracle.assert_precise(found, exact, usual, oracle.LOSS_FACTOR)
    for logps in (found, exact, usual):
        (logps.double() @ weights).backward()
    for a, b, c in zip(p.grads(), q.grads(), r.grads(), strict=True):
        assert a.dtype == dtype
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR)


def test_gradient_of_lse_through_the_linear_head():
    p, q = (oracle.make_problem(torch.float64, [11], ignored=0.0) for _ in range(2))
    fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias).lse.square().sum().backward()
    (q.hidden @ q.weight.t() + q.bias).logsumexp(-1).square().sum().backward()
    for a, b in zip(p.grads(), q.grads(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_tiling_gives_the_same_numbers(dtype):
    p = oracle.make_problem(dtype, [150], vocab=1000)
    exact, usual = p.at(torch.float64), p.at(dtype)
    for q in (exact, usual):
        oracle.token_logps(q.hidden, q.weight, q.bias, q.targets).sum().backward()
    full = oracle.token_logps(exact.hidden, exact.weight, exact.bias, exact.targets)
    naive = oracle.token_logps(usual.hidden, usual.weight, usual.bias, usual.targets)
    # From everything at once down to 64 rows x 256 columns, where 16-bit dW is summed over row blocks in float32.
    for budget in (1 << 30, 500_000, 400_000, 330_000, 180_000):
        q = p.at(dtype)
        try:
            found = fastpref.linear_logprobs(q.hidden, q.weight, q.targets, bias=q.bias, budget_bytes=budget).logps
        except ValueError:
            assert budget < (500_000 if dtype == torch.float32 else 200_000)
            continue
        found.sum().backward()
        oracle.assert_precise(found, full, naive, oracle.LOSS_FACTOR)
        for a, b, c in zip(q.grads(), exact.grads(), usual.grads(), strict=True):
            oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR, what=f"budget {budget}")


def test_small_float16_coefficients_do_not_underflow():
    p = oracle.make_problem(torch.float16, [16], vocab=3000, ignored=0.0)
    exact = p.at(torch.float64)
    small = 2.0**-13
    (fastpref.linear_logprobs(p.hidden, p.weight, p.targets).logps.sum() * small).backward()
    (oracle.token_logps(exact.hidden, exact.weight, None, exact.targets).sum() * small).backward()
    error = (p.hidden.grad.double() - exact.hidden.grad).norm() / exact.hidden.grad.norm()
    assert error < 2e-3


def test_gradcheck():
    p = oracle.make_problem(torch.float64, [6], hidden=4, vocab=9)

    def linear(hidden, weight, bias):
        return differentiable(
            fastpref.linear_logprobs(hidden, weight, p.targets, bias=bias, softcap=2.0, temperature=1.3)
        )

    assert torch.autograd.gradcheck(linear, (p.hidden, p.weight, p.bias))
    logits, targets = rows(torch.float64, count=4, vocab=7)
    assert torch.autograd.gradcheck(
        lambda x: differentiable(fastpref.logprobs(x, targets, softcap=2.0)), (logits.requires_grad_(),)
    )


# --- statistics --------------------------------------------------------------------------------------------------------------


def plain_statistics(logits, targets, **options):
    z = oracle.transform(logits.detach(), **options)
    log_p = z.log_softmax(-1)
    found = {
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "log_sum_sq_probs": (2 * log_p).logsumexp(-1),
        "mean_logit": z.mean(-1),
    }
    return {name: value.masked_fill(targets < 0, 0) for name, value in found.items()}


def assert_statistics(found, logits, targets, **options):
    """``logits`` in the dtype in which plain torch is to be judged."""
    exact, usual = (plain_statistics(x, targets, **options) for x in (logits.double(), logits))
    for name in exact:
        value = getattr(found, name)
        assert not value.requires_grad
        assert value.dtype == torch.promote_types(logits.dtype, torch.float32)
        oracle.assert_precise(value, exact[name], usual[name], oracle.LOSS_FACTOR, what=name)
    assert found.argmax.dtype == torch.int64


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_of_given_logits(dtype, options):
    logits, targets = rows(dtype)
    leaf = logits.requires_grad_()
    found = fastpref.logprobs(leaf, targets, stats=STATISTICS, **options)
    assert_statistics(found, logits, targets, **options)
    assert torch.equal(found.argmax, logits.argmax(-1).masked_fill(targets < 0, 0))
    without = fastpref.logprobs(leaf, targets, **options)
    assert torch.equal(found.logps, without.logps)
    assert all(getattr(without, name) is None for name in STATISTICS)
    found.logps.sum().backward()
    once = leaf.grad.clone()
    leaf.grad = None
    without.logps.sum().backward()
    assert torch.equal(once, leaf.grad)


@pytest.mark.parametrize("budget", [None, 420_000])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_of_a_linear_head(dtype, options, budget):
    p = oracle.make_problem(dtype, [90], vocab=700)
    if dtype == torch.float64:
        budget = None
    found = fastpref.linear_logprobs(
        p.hidden, p.weight, p.targets, bias=p.bias, stats=STATISTICS, budget_bytes=budget, **options
    )
    q, ignored = p.at(torch.float64), p.targets < 0
    exact = (q.hidden @ q.weight.t() + q.bias).detach()
    usual = (p.hidden @ p.weight.t() + p.bias).detach()
    three = (plain_statistics(exact, p.targets, **options), plain_statistics(usual, p.targets, **options))
    for name in three[0]:
        oracle.assert_precise(getattr(found, name), three[0][name], three[1][name], oracle.LOSS_FACTOR, what=name)
    top = exact.gather(1, found.argmax[:, None]).squeeze(1)[~ignored]
    slack = 0 if dtype == torch.float64 else torch.finfo(dtype).eps * 16  # logits are rounded to the dtype
    assert (exact.amax(-1)[~ignored] - top <= slack).all()
    assert (found.argmax[ignored] == 0).all()


def test_statistics_keep_the_shape_of_the_targets():
    logits, targets = rows(torch.float32, count=12)
    found = fastpref.logprobs(logits.view(3, 4, -1), targets.view(3, 4), stats=["argmax"])
    assert found.argmax.shape == (3, 4)
    assert found.entropy is None


def test_statistics_ignore_what_ignored_rows_hold():
    logits, targets = rows(torch.float32)
    logits[::4] = torch.nan
    found = fastpref.logprobs(logits, targets, stats=STATISTICS)
    for name in STATISTICS:
        assert (getattr(found, name)[::4] == 0).all()


class TestOperators:
    """``torch.library.opcheck`` on what is registered: schema, fake kernels, autograd, AOT dispatch."""

    def test_logprobs(self):
        logits, targets = rows(torch.float32)
        ids = targets.masked_fill(targets < 0, -1)
        args = (logits.requires_grad_(), ids, None, 1.0, None, 1.0, False, "eager")
        torch.library.opcheck(torch.ops.fastpref.logprobs, args)

    @pytest.mark.parametrize("stats", [("argmax",), ("entropy", "log_sum_sq_probs", "argmax", "mean_logit")], ids=str)
    def test_statistics(self, stats):
        logits, targets = rows(torch.float32)
        ids = targets.masked_fill(targets < 0, -1)
        args = (logits.requires_grad_(), ids, None, 1.0, None, 1.0, False, "eager", ",".join(stats))
        torch.library.opcheck(torch.ops.fastpref.logprobs, args)
        p = oracle.make_problem(torch.float32, [9])
        ids = p.targets.masked_fill(p.targets < 0, -1)
        args = (p.hidden, p.weight, p.bias, ids, None, 1.0, None, 1.0, 128, 64, "eager", ",".join(stats))
        torch.library.opcheck(torch.ops.fastpref.linear_logprobs, args)

    def test_logprobs_backward(self):
        logits, targets = rows(torch.float32)
        a = torch.ones(len(targets))
        ids = targets.masked_fill(targets < 0, -1)
        torch.library.opcheck(
            torch.ops.fastpref.logprobs_backward, (logits, ids, None, a, a, a.clone(), 1.0, 30.0, 1.0, "eager")
        )

    @pytest.mark.parametrize("bias", [True, False])
    def test_linear_logprobs(self, bias):
        p = oracle.make_problem(torch.float32, [9], bias=bias)
        ids = p.targets.masked_fill(p.targets < 0, -1)
        args = (p.hidden, p.weight, p.bias, ids, None, 1.0, None, 1.0, 128, 64, "eager")
        torch.library.opcheck(torch.ops.fastpref.linear_logprobs, args)
        torch.library.opcheck(torch.ops.fastpref.linear_logprobs, (*args, "entropy", p.ref_hidden, 4, True))

    def test_linear_logprobs_backward(self):
        p = oracle.make_problem(torch.float32, [9])
        ids = p.targets.masked_fill(p.targets < 0, -1)
        a = torch.ones(9)
        parts = (p.hidden.detach(), p.weight.detach(), p.bias.detach(), ids, None, a, a.clone(), a.clone())
        args = (*parts, 1.0, None, 1.0, 128, 64, "eager")
        for kept in ((None, 0, None), (torch.randn(3 * 301), 3, a.clone())):
            torch.library.opcheck(torch.ops.fastpref.linear_logprobs_backward, (*args, *kept, [True, True, True]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, t: fastpref.logprobs(x.int(), t), TypeError, ["logits", "int32"]),
        (lambda x, t: fastpref.logprobs(x, t[:-1]), ValueError, ["targets", "[9]", "[8]"]),
        (lambda x, t: fastpref.logprobs(x, t.float()), TypeError, ["targets", "int64", "float32"]),
        (lambda x, t: fastpref.logprobs(x, t + 200), ValueError, ["targets", "[0, 130)", "row"]),
        (lambda x, t: fastpref.logprobs(x[:, :0], t), ValueError, ["logits", "V >= 1"]),
        (lambda x, t: fastpref.logprobs(x.tolist(), t), TypeError, ["logits", "list"]),
        (lambda x, t: fastpref.logprobs(x, t, temperature=-1.0), ValueError, ["temperature", "-1.0"]),
        (lambda x, t: fastpref.logprobs(x, t, backend="nope"), ValueError, ["backend", "nope"]),
        (lambda x, t: fastpref.logprobs(x.double(), t, backend="cpu"), ValueError, ["backend='cpu'", "cannot be used"]),
        (lambda x, t: fastpref.logprobs(x * math.nan, t), ValueError, ["logits", "NaN", "row 1"]),
        (lambda x, t: fastpref.linear_logprobs(x, x[:, :5], t), ValueError, ["weight", "[V, 130]"]),
        (lambda x, t: fastpref.logprobs(x, t, stats=("entropi",)), ValueError, ["stats", "mean 'entropy'?"]),
        (lambda x, t: fastpref.logprobs(x, t, stats="entropy"), TypeError, ["stats", "tuple of names", "'entropy'"]),
        (lambda x, t: fastpref.linear_logprobs(x, x, t % 9, stats=("lse2",)), ValueError, ["stats", "'lse2'"]),
    ],
)
def test_bad_input(call, error, words):
    logits, targets = rows(torch.float32)
    with pytest.raises(error) as raised:
        call(logits, targets)
    for word in words:
        assert word in str(raised.value)


def test_environment_chooses_the_backend(monkeypatch):
    logits, targets = rows(torch.float32)
    monkeypatch.setenv("FASTPREF_BACKEND", "nope")
    with pytest.raises(ValueError, match="FASTPREF_BACKEND='nope'"):
        fastpref.logprobs(logits, targets)
    monkeypatch.setenv("FASTPREF_BACKEND", "eager")
    assert fastpref.logprobs(logits, targets).logps.isfinite().all()


def test_no_rows():
    out = fastpref.logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert out.logps.shape == (0,)
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)
    fastpref.linear_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64)).logps.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(5, 4))
