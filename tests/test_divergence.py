"""token_kl and linear_token_kl: values and gradients in both directions, exactness at policy = reference, registration, refusals."""

import pytest
import torch
from torch import Tensor

import fastpref
from fastpref import TokenKL, linear_token_kl, token_kl
from tests import oracle

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPTIONS = [{}, {"softcap": 5.0}, {"temperature": 0.6, "logit_scale": 0.25}]
FIELDS = ("logps", "lse", "ref_logps", "ref_lse", "kl")
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
options_ = pytest.mark.parametrize("options", OPTIONS, ids=str)


def rows(dtype, count=9, vocab=130, seed=0, scale=3.0):
    """Logits, the reference's logits near them, and targets, of which every fourth is ignored."""
    g = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(count, vocab, generator=g)).to(dtype)
    ref_logits = (logits + 0.5 * torch.randn(count, vocab, generator=g)).to(dtype)
    targets = torch.randint(0, vocab, (count,), generator=g)
    targets[::4] = -100
    return logits, ref_logits, targets


def plain(logits, ref_logits, targets, direction, **options) -> TokenKL:
    """The definitions on full logits. A measure of 0 contributes 0."""

    def side(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = oracle.transform(x, **options)
        log_p = z.log_softmax(-1)
        picked = log_p.gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1)
        return picked.masked_fill(targets < 0, 0), z.logsumexp(-1).masked_fill(targets < 0, 0), log_p

    logps, lse, log_p = side(logits)
    ref_logps, ref_lse, log_q = side(ref_logits.detach())
    a, b = (log_q, log_p) if direction == "forward" else (log_p, log_q)
    inside = a > -torch.inf
    difference = torch.where(inside, a, 0.0) - torch.where(inside, b, 0.0)
    kl = (torch.where(inside, a, 0.0).exp() * difference * inside).sum(-1).masked_fill(targets < 0, 0)
    return TokenKL(logps, lse, ref_logps, ref_lse, kl)


def functional(out: TokenKL) -> Tensor:
    """A scalar that uses every differentiable output, each row in its own way."""
    weights = torch.linspace(-1, 1, len(out.kl), dtype=torch.float64)
    return out.logps.double() @ weights + (out.lse.double() ** 2).sum() * 0.01 + out.kl.double() @ weights.flip(0)


def values(out: TokenKL) -> list[Tensor]:
    return [getattr(out, name) for name in FIELDS]


def run(function, logits, ref_logits, targets, **options):
    """The five values, and the gradient of the functional."""
    leaf = logits.detach().clone().requires_grad_()
    out = function(leaf, ref_logits, targets, **options)
    functional(out).backward()
    return *values(out), leaf.grad


def assert_agree(found, exact, usual):
    for name, a, b, c in zip((*FIELDS, "gradient"), found, exact, usual, strict=True):
        gradient = name == "gradient"
        factor = oracle.GRADIENT_FACTOR if gradient else oracle.LOSS_FACTOR
        oracle.assert_precise(a, b, c, factor, ulps=oracle.GRADIENT_ULPS if gradient else 8.0, what=name)


# --- logits given ------------------------------------------------------------------------------------------------------------


@directions
@options_
@dtypes
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_given_logits_agree_with_the_oracle(backend, dtype, options, direction):
    logits, ref_logits, targets = rows(dtype)
    found = run(token_kl, logits, ref_logits, targets, direction=direction, backend=backend, **options)
    exact = run(plain, logits.double(), ref_logits.double(), targets, direction=direction, **options)
    usual = run(plain, logits, ref_logits, targets, direction=direction, **options)
    assert_agree(found, exact, usual)
    assert found[-1].dtype == dtype
    assert torch.equal(found[-1][::4], torch.zeros_like(found[-1][::4]))


@directions
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_huge_logits_cost_no_digits_of_the_divergence(direction, offset):
    """Only differences from each row's own reference value enter: with numbers of 1e4 that float32 holds exactly, nothing is lost."""
    logits, ref_logits, targets = rows(torch.float32)
    logits, ref_logits = ((x * 64).round() / 64 for x in (logits, ref_logits))
    near = token_kl(logits, ref_logits, targets, direction=direction)
    far = token_kl(logits + offset, ref_logits - offset / 2, targets, direction=direction)
    torch.testing.assert_close(far.kl, near.kl, rtol=0, atol=2e-6)
    torch.testing.assert_close(far.logps, near.logps, rtol=0, atol=2e-6)


@directions
def test_distributions_far_from_each_other(direction):
    logits, ref_logits, targets = rows(torch.float64, scale=200.0)
    ref_logits = ref_logits.flip(-1)
    exact = run(plain, logits, ref_logits, targets, direction=direction)
    usual = run(plain, logits.float(), ref_logits.float(), targets, direction=direction)
    exact32 = run(plain, logits.float().double(), ref_logits.float().double(), targets, direction=direction)
    assert_agree(run(token_kl, logits, ref_logits, targets, direction=direction), exact, exact)
    assert_agree(run(token_kl, logits.float(), ref_logits.float(), targets, direction=direction), exact32, usual)


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_numbers_give_exactly_0(dtype, direction):
    logits, _, targets = rows(dtype, vocab=5000)
    logits[1, 3::7] = -torch.inf
    targets = targets.where(targets % 7 != 3, 0)
    leaf = logits.clone().requires_grad_()
    out = token_kl(leaf, logits, targets, direction=direction, softcap=None, temperature=0.7)
    assert torch.equal(out.logps, out.ref_logps)
    assert torch.equal(out.lse, out.ref_lse)
    assert (out.kl == 0).all()
    out.kl.sum().backward()
    assert (leaf.grad == 0).all()


@directions
def test_a_policy_near_its_reference_keeps_the_digits_of_a_small_divergence(direction):
    logits, _, targets = rows(torch.float32)
    ref_logits = logits + 1e-2 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    exact = plain(logits.double(), ref_logits.double(), targets, direction).kl
    found = token_kl(logits, ref_logits, targets, direction=direction).kl
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-7)  # a few roundings of 1; log-probs are near 5


class TestMinusInfinity:
    def test_the_same_entries_excluded_from_both(self):
        for direction in ("forward", "reverse"):
            logits, ref_logits, targets = rows(torch.float64)
            targets.clamp_(min=0)
            excluded = torch.arange(130) % 3 == 1
            targets = torch.where(excluded[targets], targets + 1, targets)
            kept = (~excluded).nonzero().squeeze(1)
            for x in (logits, ref_logits):
                x[:, excluded] = -torch.inf
            places = torch.searchsorted(kept, targets)
            found = run(token_kl, logits, ref_logits, targets, direction=direction)
            exact = run(plain, logits[:, kept], ref_logits[:, kept], places, direction=direction)
            assert (found[-1][:, excluded] == 0).all()
            assert_agree((*found[:-1], found[-1][:, kept]), exact, exact)

    def test_a_measure_of_0_contributes_0_and_the_other_way_is_infinite(self):
        logits, ref_logits, _ = rows(torch.float32)
        targets = torch.full((9,), 7)
        logits[:, 5] = -torch.inf  # the policy excludes what the reference allows
        for backend in ("eager", "auto"):
            reverse = run(token_kl, logits, ref_logits, targets, direction="reverse", backend=backend)
            exact = run(plain, logits.double(), ref_logits.double(), targets, direction="reverse")
            usual = run(plain, logits, ref_logits, targets, direction="reverse")
            assert all(value.isfinite().all() for value in reverse)
            torch.testing.assert_close(reverse[4].double(), exact[4], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(reverse[5][:, 6:].double(), exact[5][:, 6:], rtol=1e-4, atol=1e-6)
            assert (reverse[5][:, 5] == 0).all()
            assert usual[4].isfinite().all()
            leaf = logits.clone().requires_grad_()
            forward = token_kl(leaf, ref_logits, targets, direction="forward", backend=backend)
            assert (forward.kl == torch.inf).all()
            forward.kl.sum().backward()  # p - p_ref is finite all the same
            expected = logits.double().softmax(-1) - ref_logits.double().softmax(-1)
            torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-5, atol=1e-6)

    @directions
    def test_infinite_in_any_chunk(self, direction):
        """Also where the entry's own weight has become 0 next to what a later chunk holds."""
        hidden = torch.eye(3, dtype=torch.float32)
        weight, ref_weight = torch.zeros(600, 3), torch.zeros(600, 3)
        measure, other = (ref_weight, weight) if direction == "forward" else (weight, ref_weight)
        other[10] = -1e38
        measure[580] = other[580] = 500.0
        bias, ref_bias = torch.zeros(600), torch.zeros(600)
        (bias if direction == "forward" else ref_bias)[10] = -torch.inf
        out = linear_token_kl(
            hidden, weight, torch.tensor([580] * 3), bias=bias, reference=(hidden, ref_weight, ref_bias),
            direction=direction, budget_bytes=2_100_000,
        )  # fmt: skip
        assert (out.kl == torch.inf).all()

    @directions
    def test_an_infinite_row_without_upstream_gradient_does_no_harm(self, direction):
        logits, ref_logits, targets = rows(torch.float32, count=4)
        logits[1, 5] = ref_logits[2, 6] = -torch.inf
        targets[:] = 7
        leaf = logits.clone().requires_grad_()
        out = token_kl(leaf, ref_logits, targets, direction=direction)
        (out.logps.sum() + torch.where(out.kl.isfinite(), out.kl, 0.0).sum()).backward()
        assert leaf.grad.isfinite().all()


@directions
def test_ignored_rows_may_hold_anything(direction):
    logits, ref_logits, targets = rows(torch.float32)
    expected = run(token_kl, logits, ref_logits, targets, direction=direction)
    for bad in (torch.nan, torch.inf, -torch.inf):
        logits[::4], ref_logits[::4] = bad, bad
        for a, b in zip(run(token_kl, logits, ref_logits, targets, direction=direction), expected, strict=True):
            assert torch.equal(a, b)


@directions
def test_one_token_vocabulary(direction):
    out = run(token_kl, torch.tensor([[3.0], [-1e4]]), torch.zeros(2, 1), torch.tensor([0, 0]), direction=direction)
    assert all((value == 0).all() for value in (out[0], out[2], out[4], out[5] * 0))
    leaf = torch.tensor([[3.0]], requires_grad=True)
    token_kl(leaf, torch.zeros(1, 1), torch.tensor([0]), direction=direction).kl.sum().backward()
    assert leaf.grad.item() == 0


def test_batched_and_strided_shapes():
    logits, ref_logits, targets = rows(torch.float32, count=12)
    flat = token_kl(logits, ref_logits, targets)
    batched = token_kl(logits.view(3, 4, -1), ref_logits.t().contiguous().t().view(3, 4, -1), targets.view(3, 4))
    for a, b in zip(values(batched), values(flat), strict=True):
        assert a.shape == (3, 4)
        assert torch.equal(a.flatten(), b)


def test_log_probabilities_are_those_of_logprobs():
    logits, ref_logits, targets = rows(torch.float32, vocab=5000)
    out = token_kl(logits, ref_logits, targets, softcap=4.0)
    for x, logps, lse in ((logits, out.logps, out.lse), (ref_logits, out.ref_logps, out.ref_lse)):
        alone = fastpref.logprobs(x, targets, softcap=4.0)
        assert torch.equal(alone.logps, logps)
        assert torch.equal(alone.lse, lse)


# --- linear heads ------------------------------------------------------------------------------------------------------------


def reference_of(p: oracle.Problem, width: int = 17) -> tuple[Tensor, Tensor, Tensor | None]:
    """A reference near the policy, of another hidden size: extra columns that multiply to little."""
    g = torch.Generator().manual_seed(5)
    extra = [0.2 * torch.randn(n, width, generator=g, dtype=torch.float64) for n in (len(p.hidden), len(p.weight))]
    pairs = zip((p.ref_hidden, p.ref_weight), extra, strict=True)
    hidden, weight = (torch.cat([a.double(), b], 1).to(p.hidden.dtype) for a, b in pairs)
    return hidden, weight, p.ref_bias


def plain_linear(p: oracle.Problem, reference, direction, **options) -> TokenKL:
    def logits(hidden, weight, bias):
        return hidden @ weight.t() if bias is None else hidden @ weight.t() + bias

    ref = [None if t is None else t.to(p.hidden.dtype) for t in reference]
    return plain(logits(p.hidden, p.weight, p.bias), logits(*ref), p.targets, direction, **options)


def ours_linear(p: oracle.Problem, reference, direction, **options) -> TokenKL:
    return linear_token_kl(
        p.hidden, p.weight, p.targets, bias=p.bias, reference=reference, direction=direction, **options
    )


def assert_linear(p: oracle.Problem, reference, direction, budget: int | None = None, **options) -> None:
    dtype = p.hidden.dtype
    q, r = p.at(torch.float64), p.at(dtype)
    found = ours_linear(p, reference, direction, budget_bytes=budget, **options)
    exact, usual = (plain_linear(x, reference, direction, **options) for x in (q, r))
    for out in (found, exact, usual):
        functional(out).backward()
    for name, *three in zip(FIELDS, *map(values, (found, exact, usual)), strict=True):
        oracle.assert_precise(*three, oracle.LOSS_FACTOR, what=name)
    for three in zip(p.grads(), q.grads(), r.grads(), strict=True):
        assert three[0].dtype == dtype
        oracle.assert_precise(*three, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS, what=f"budget {budget}")


@directions
@options_
@pytest.mark.parametrize("bias", [True, False])
@dtypes
def test_linear_agrees_with_the_oracle(dtype, bias, options, direction):
    p = oracle.make_problem(dtype, [20], bias=bias)
    assert_linear(p, reference_of(p), direction, **options)


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_tiling_gives_the_same_numbers(dtype, direction):
    for budget in (1 << 30, 700_000, 330_000):
        p = oracle.make_problem(dtype, [150], vocab=1000)
        try:
            assert_linear(p, reference_of(p), direction, budget=budget)
        except ValueError as error:
            assert "budget_bytes" in str(error)
            assert budget < 700_000


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_linear_policy_equal_to_its_reference(dtype, direction):
    p = oracle.make_problem(dtype, [90], vocab=1000, bias=True)
    same = tuple(t.detach() for t in (p.hidden, p.weight, p.bias))
    out = ours_linear(p, same, direction, budget_bytes=700_000)
    assert torch.equal(out.logps, out.ref_logps)
    assert (out.kl == 0).all()
    out.kl.sum().backward()
    assert all((grad == 0).all() for grad in p.grads())


@directions
def test_small_float16_coefficients_do_not_underflow(direction):
    p = oracle.make_problem(torch.float16, [16], vocab=3000, ignored=0.0)
    q, small = p.at(torch.float64), 2.0**-13
    (ours_linear(p, reference_of(p), direction).kl.sum() * small).backward()
    (plain_linear(q, reference_of(p), direction).kl.sum() * small).backward()
    # The rounding of the logits alone makes 1 %; without scaled coefficients nearly everything would be 0.
    assert (p.hidden.grad.double() - q.hidden.grad).norm() / q.hidden.grad.norm() < 2e-2


def test_only_what_needs_a_gradient_gets_one():
    p = oracle.make_problem(torch.float32, [9])
    ref = tuple(t.detach().clone().requires_grad_() for t in (p.ref_hidden, p.ref_weight, p.ref_bias))
    out = linear_token_kl(p.hidden, p.weight.detach(), p.targets, bias=p.bias, reference=ref)
    assert [getattr(out, name).requires_grad for name in FIELDS] == [True, True, False, False, True]
    out.kl.sum().backward()
    assert p.hidden.grad is not None
    assert p.bias.grad is not None
    assert all(t.grad is None for t in ref)


def test_autocast():
    p = oracle.make_problem(torch.float32, [12])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ours_linear(p, (p.ref_hidden, p.ref_weight, p.ref_bias), "forward")
        out.kl.sum().backward()
    low = [t.detach().bfloat16() for t in (p.hidden, p.weight, p.bias)]
    ref = tuple(t.detach().bfloat16() for t in (p.ref_hidden, p.ref_weight, p.ref_bias))
    again = linear_token_kl(low[0], low[1], p.targets, bias=low[2], reference=ref)
    assert torch.equal(out.kl, again.kl)
    assert p.weight.grad.dtype == torch.float32


def test_the_same_bits_every_time():
    p = oracle.make_problem(torch.bfloat16, [90], vocab=1000)
    runs = []
    for _ in range(2):
        q = p.at(torch.bfloat16)
        out = ours_linear(q, reference_of(p), "reverse", budget_bytes=700_000)
        functional(out).backward()
        runs.append([*values(out), *q.grads()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@directions
def test_gradcheck(direction):
    p = oracle.make_problem(torch.float64, [6], hidden=4, vocab=9)
    reference = reference_of(p, width=2)

    def differentiable(out):
        return out.logps, out.lse, out.kl

    def linear(hidden, weight, bias):
        return differentiable(
            linear_token_kl(
                hidden, weight, p.targets, bias=bias, reference=reference, direction=direction, softcap=2.0,
                temperature=1.3,
            )
        )  # fmt: skip

    assert torch.autograd.gradcheck(linear, (p.hidden, p.weight, p.bias))
    logits, ref_logits, targets = rows(torch.float64, count=4, vocab=7)
    assert torch.autograd.gradcheck(
        lambda x: differentiable(token_kl(x, ref_logits, targets, direction=direction)), (logits.requires_grad_(),)
    )


def test_no_rows():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)
    out = linear_token_kl(hidden, weight, torch.zeros(0, dtype=torch.int64), reference=(hidden, weight))
    out.kl.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(5, 4))


class TestOperators:
    """``torch.library.opcheck`` on what is registered: schema, fake kernels, autograd, AOT dispatch."""

    @directions
    def test_kl(self, direction):
        logits, ref_logits, targets = rows(torch.float32)
        ids = targets.masked_fill(targets < 0, -1)
        args = (logits.requires_grad_(), ref_logits, ids, None, 1.0, None, 1.0, direction, "eager")
        torch.library.opcheck(torch.ops.fastpref.kl, args)

    def test_kl_backward(self):
        logits, ref_logits, targets = rows(torch.float32)
        ids = targets.masked_fill(targets < 0, -1)
        per_row = [torch.ones(len(targets)) for _ in range(6)]
        args = (logits, ref_logits, ids, None, *per_row, 1.0, 30.0, 1.0, "reverse", "eager")
        torch.library.opcheck(torch.ops.fastpref.kl_backward, args)

    @pytest.mark.parametrize("bias", [True, False])
    def test_linear_kl(self, bias):
        p = oracle.make_problem(torch.float32, [9], bias=bias)
        ids = p.targets.masked_fill(p.targets < 0, -1)
        args = (p.hidden, p.weight, p.bias, *p.reference, ids, None, 1.0, None, 1.0, "forward", 128, 64, "eager")
        torch.library.opcheck(torch.ops.fastpref.linear_kl, args)

    def test_linear_kl_backward(self):
        p = oracle.make_problem(torch.float32, [9])
        ids = p.targets.masked_fill(p.targets < 0, -1)
        per_row = [torch.ones(9) for _ in range(6)]
        policy = (p.hidden.detach(), p.weight.detach(), p.bias.detach())
        args = (*policy, *p.reference, ids, None, *per_row, 1.0, None, 1.0, "reverse", 128, 64, "eager", [True] * 3)
        torch.library.opcheck(torch.ops.fastpref.linear_kl_backward, args)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y, t: token_kl(x, y, t, direction="foward"), ValueError, ["direction", "'foward'", "'forward'"]),
        (lambda x, y, t: token_kl(x, y[:, 1:], t), ValueError, ["ref_logits", "[9, 130]", "[9, 129]"]),
        (lambda x, y, t: token_kl(x, y.double(), t), TypeError, ["ref_logits", "float32", "float64"]),
        (lambda x, y, t: token_kl(x, y.tolist(), t), TypeError, ["ref_logits", "list"]),
        (lambda x, y, t: token_kl(x, y, t[1:]), ValueError, ["targets", "[9]", "[8]"]),
        (lambda x, y, t: token_kl(x, y, t + 200), ValueError, ["targets", "[0, 130)"]),
        (lambda x, y, t: token_kl(x, y * torch.nan, t), ValueError, ["ref_logits", "NaN", "row 1"]),
        (lambda x, y, t: token_kl(x, y, t, temperature=0.0), ValueError, ["temperature", "0.0"]),
        (lambda x, y, t: linear_token_kl(x, x, t, reference=x), TypeError, ["reference", "(hidden, weight[, bias])"]),
        (lambda x, y, t: linear_token_kl(x, x, t, reference=(x,)), ValueError, ["reference", "1 items"]),
        (lambda x, y, t: linear_token_kl(x, x, t, reference=(x, None)), TypeError, ["reference weight", "NoneType"]),
        (lambda x, y, t: linear_token_kl(x, x, t, reference=(x, x[1:])), ValueError, ["reference weight", "[9, H]"]),
        (lambda x, y, t: linear_token_kl(x, x, t, reference=(x[1:], x)), ValueError, ["reference hidden", "[9, H]"]),
        (lambda x, y, t: linear_token_kl(x, x, t % 9, reference=(x, x), budget_bytes=9), ValueError, ["budget_bytes"]),
    ],
)  # fmt: skip
def test_bad_input(call, error, words):
    with pytest.raises(error) as raised:
        call(*rows(torch.float32))
    for word in words:
        assert word in str(raised.value)
