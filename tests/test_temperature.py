"""A temperature per token: every public function against plain PyTorch, the same numbers as the scalar where all are equal, refusals."""

import pytest
import torch

import fastpref
from fastpref import linear_token_kl, token_kl
from fastpref.backends.base import STATISTICS
from fastpref.nn import LinearPreferenceLoss
from tests import family, oracle

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
options_ = pytest.mark.parametrize("options", [{}, {"softcap": 5.0, "logit_scale": 0.5}], ids=str)
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


def drawn(rows: int, seed: int = 3) -> torch.Tensor:
    """One per row, between 0.4 and 2; ignored rows (the callers' every fourth) hold what no other row may."""
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed)) * 1.6 + 0.4


def rows(dtype, count=9, vocab=130, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(count, vocab, generator=g)).to(dtype)
    targets = torch.randint(0, vocab, (count,), generator=g)
    targets[::4] = -100
    temperature = drawn(count)
    temperature[::4] = torch.tensor([torch.nan, -1.0, 0.0])[: len(temperature[::4])]
    return logits, targets, temperature


def plain_logps(logits, targets, temperature, **options):
    t = temperature.to(logits.dtype).masked_fill(targets < 0, 1.0)[:, None]
    z = oracle.transform(logits, **options) / t
    return z.log_softmax(-1).gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1).masked_fill(targets < 0, 0), z


@options_
@dtypes
def test_logprobs_agree_with_the_oracle(dtype, options):
    logits, targets, temperature = rows(dtype)
    results = []
    for run, x in ((None, logits), (plain_logps, logits.double()), (plain_logps, logits)):
        leaf = x.clone().requires_grad_()
        if run is None:
            out = fastpref.logprobs(leaf, targets, temperature=temperature, stats=STATISTICS, **options)
            logps, mean, entropy = out.logps, out.mean_logit, out.entropy
        else:
            logps, z = run(leaf, targets, temperature, **options)
            p = z.detach().softmax(-1)
            mean = z.detach().mean(-1).masked_fill(targets < 0, 0)
            entropy = -(p * z.detach().log_softmax(-1)).sum(-1).masked_fill(targets < 0, 0)
        (logps.double() @ torch.linspace(-1, 1, len(targets), dtype=torch.float64)).backward()
        results.append((logps, mean, entropy, leaf.grad))
    for a, b, c, factor in zip(*results, (2, 2, 2, 3), strict=True):
        oracle.assert_precise(a, b, c, factor)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("value", [0.25, 0.7])
def test_equal_temperatures_are_the_scalar(value, backend):
    logits, targets, _ = rows(torch.float32, vocab=3000)
    grads, outs = [], []
    for temperature in (value, torch.full((9,), value, dtype=torch.float64)):
        leaf = logits.clone().requires_grad_()
        outs.append(fastpref.logprobs(leaf, targets, temperature=temperature, stats=STATISTICS, backend=backend))
        outs[-1].logps.sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
    for name in ("logps", "lse", *STATISTICS):
        assert torch.equal(getattr(outs[0], name), getattr(outs[1], name)), name


def test_shapes_and_inplace_backward():
    logits, targets, temperature = rows(torch.float32, count=12)
    grads = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        out = fastpref.logprobs(
            (leaf * 1).view(3, 4, -1),
            targets.view(3, 4),
            temperature=temperature.view(3, 4),
            inplace_backward=inplace,
        )
        out.logps.sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@options_
@dtypes
@pytest.mark.parametrize("budget", [None, 370_000])
def test_linear_logprobs_agree_with_the_oracle(dtype, options, budget):
    """The smaller budget cuts rows into blocks."""
    p = oracle.make_problem(dtype, [70], vocab=500)
    if dtype == torch.float64:
        budget = None if budget is None else 2 * budget
    temperature = drawn(70).masked_fill(p.targets < 0, -3.0)
    q, r = p.at(torch.float64), p.at(dtype)
    found = fastpref.linear_logprobs(
        p.hidden, p.weight, p.targets, bias=p.bias, temperature=temperature, budget_bytes=budget, **options
    ).logps
    exact, usual = (plain_logps(x.hidden @ x.weight.t() + x.bias, p.targets, temperature, **options)[0] for x in (q, r))
    oracle.assert_precise(found, exact, usual, oracle.LOSS_FACTOR)
    for logps in (found, exact, usual):
        (logps.double() @ torch.linspace(-1, 1, 70, dtype=torch.float64)).backward()
    for a, b, c in zip(p.grads(), q.grads(), r.grads(), strict=True):
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR)


@directions
@dtypes
def test_divergences_agree_with_the_oracle(dtype, direction):
    p = oracle.make_problem(dtype, [40], vocab=300)
    temperature = drawn(40)
    results = []
    for kind, x in (("linear", p), ("given", p.at(dtype)), ("plain", p.at(torch.float64)), ("plain", p.at(dtype))):
        logits, ref_logits = x.hidden @ x.weight.t() + x.bias, x.ref_hidden @ x.ref_weight.t() + x.ref_bias
        if kind == "linear":
            kl = linear_token_kl(
                x.hidden, x.weight, x.targets, reference=x.reference, bias=x.bias, temperature=temperature,
                direction=direction,
            ).kl  # fmt: skip
        elif kind == "given":
            kl = token_kl(logits, ref_logits, x.targets, temperature=temperature, direction=direction).kl
        else:
            log_p, log_q = ((y / temperature.to(y.dtype)[:, None]).log_softmax(-1) for y in (logits, ref_logits))
            a, b = (log_q, log_p) if direction == "forward" else (log_p, log_q)
            kl = (a.exp() * (a - b)).sum(-1).masked_fill(x.targets < 0, 0)
        (kl.double() @ torch.linspace(-1, 1, 40, dtype=torch.float64)).backward()
        results.append((kl, *x.grads()))
    for found in results[:2]:
        for i, (a, b, c) in enumerate(zip(found, *results[2:], strict=True)):
            oracle.assert_precise(a, b, c, 3 if i else 2, ulps=oracle.GRADIENT_ULPS if i else 8.0)


@pytest.mark.parametrize(("loss", "plan"), [*(("sigmoid", f"D{i}") for i in range(4)), ("tdpo2", "D0")])
def test_preference_loss_under_every_plan(plan, loss):
    """The reference has the temperatures of the policy; in several groups or blocks each takes its own rows'."""
    p, q = (oracle.make_problem(torch.float64, [5, 3, 4, 6, 2, 7], ignored=0.3) for _ in range(2))
    temperature = drawn(27).double().masked_fill(p.targets < 0, torch.inf)

    def run(**options):
        return fastpref.linear_preference_loss(
            loss, p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference, beta=0.4,
            temperature=temperature, plan=plan, **options,
        )  # fmt: skip

    out = run() if plan == "D0" else run(budget_bytes=family.refused_budget(run) + 500)
    if plan == "D1":
        assert len(out.plan.groups) > 1
    elif plan == "D2":
        assert out.plan.row_block < 6
    elif plan == "D3":
        assert 0 < out.plan.kept_rows < 18
    (2.5 * out.loss).backward(retain_graph=True)
    once = [g.clone() for g in p.grads()]
    logits, ref_logits = q.hidden @ q.weight.t() + q.bias, q.ref_hidden @ q.ref_weight.t() + q.ref_bias
    if loss == "sigmoid":
        policy, reference = (
            oracle.sequence_logps(plain_logps(x, q.targets, temperature)[0], q.cu_seqlens) for x in (logits, ref_logits)
        )
        exact = oracle.dpo_loss(policy, reference.detach(), 0.4)
    else:
        kl = token_kl(logits, ref_logits, q.targets, temperature=temperature)
        exact = fastpref.preference_loss(loss, kl, cu_seqlens=q.cu_seqlens, mask=q.targets >= 0, beta=0.4).loss
    assert out.loss.item() == pytest.approx(exact.item(), rel=1e-9)
    (2.5 * exact).backward()
    for a, b in zip(once, q.grads(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    (2.5 * out.loss).backward()  # D1 and D2 make their gradients again
    for a, b in zip(p.grads(), q.grads(), strict=True):
        torch.testing.assert_close(a, 2 * b, rtol=1e-8, atol=1e-10)


@dtypes
@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
@pytest.mark.parametrize("shared", [False, True])
def test_preference_loss_in_every_dtype(plan, dtype, shared):
    """With its own head the reference is run by itself; with the policy's it is stacked, and so are its temperatures."""
    p = oracle.make_problem(dtype, [45, 33, 40, 51], vocab=600, ignored=0.3)
    if shared:
        p.ref_weight, p.ref_bias = p.weight, p.bias
    exact, plain = p.at(torch.float64), p.at(dtype)
    temperature = drawn(169).masked_fill(p.targets < 0, torch.nan)

    def run(**options):
        return fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference, beta=0.4,
            temperature=temperature, plan=plan, **options,
        )  # fmt: skip

    out = run() if plan == "D0" else run(budget_bytes=family.refused_budget(run) + 20_000)
    out.loss.backward()
    losses = []
    for q in (exact, plain):
        policy, reference = (
            oracle.sequence_logps(plain_logps(x @ w.t() + b, q.targets, temperature)[0], q.cu_seqlens)
            for x, w, b in ((q.hidden, q.weight, q.bias), q.reference)
        )
        losses.append(oracle.dpo_loss(policy, reference.detach(), 0.4))
        losses[-1].backward()
    oracle.assert_precise(out.loss, *losses, oracle.LOSS_FACTOR)
    for a, b, c in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)


def test_gradcheck():
    p = oracle.make_problem(torch.float64, [6], hidden=4, vocab=9)
    temperature = drawn(6)

    def linear(hidden, weight, bias):
        out = fastpref.linear_logprobs(hidden, weight, p.targets, bias=bias, softcap=2.0, temperature=temperature)
        return out.logps, out.lse

    assert torch.autograd.gradcheck(linear, (p.hidden, p.weight, p.bias))
    logits, targets, own = rows(torch.float64, count=5, vocab=7)
    assert torch.autograd.gradcheck(
        lambda x: fastpref.logprobs(x, targets, temperature=own).logps, (logits.requires_grad_(),)
    )
    other = logits.detach() * 0.9
    assert torch.autograd.gradcheck(lambda x: token_kl(x, other, targets, temperature=own).kl, (logits,))


def test_the_module_takes_it_in_the_call():
    p = oracle.make_problem(torch.float32, [5, 3, 4, 6])
    module, temperature = LinearPreferenceLoss("sigmoid", beta=0.3, temperature=0.8), drawn(18)
    call = (p.hidden, p.weight, p.targets, p.cu_seqlens)
    own = module(*call, reference=p.reference[:2], temperature=temperature).loss
    wanted = fastpref.linear_preference_loss(
        "sigmoid", *call, reference=p.reference[:2], beta=0.3, temperature=temperature
    )
    assert own.item() == wanted.loss.item()
    assert module(*call, reference=p.reference[:2]).loss.item() != own.item()


def test_operators():
    """``torch.library.opcheck`` with temperatures per row."""
    logits, targets, _ = rows(torch.float32)
    ids, inverse, ones = targets.masked_fill(targets < 0, -1), drawn(9), torch.ones(9)
    leaf = logits.clone().requires_grad_()
    torch.library.opcheck(torch.ops.fastpref.logprobs, (leaf, ids, inverse, 1.0, None, 1.0, False, "eager"))
    torch.library.opcheck(torch.ops.fastpref.kl, (leaf, logits + 1, ids, inverse, 1.0, None, 1.0, "reverse", "eager"))
    p = oracle.make_problem(torch.float32, [9])
    ids = p.targets.masked_fill(p.targets < 0, -1)
    args = (p.hidden, p.weight, p.bias, ids, inverse, 1.0, None, 1.0, 128, 64, "eager")
    torch.library.opcheck(torch.ops.fastpref.linear_logprobs, args)
    policy = (p.hidden.detach(), p.weight.detach(), p.bias.detach())
    args = (*policy, ids, inverse, ones, ones, ones, 1.0, 9.0, 1.0, 128, 64, "eager", None, 0, None, [True] * 3)
    torch.library.opcheck(torch.ops.fastpref.linear_logprobs_backward, args)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t[1:], ValueError, ["temperature", "[9]", "[8]"]),
        (lambda t: t.int(), TypeError, ["temperature", "floating", "int32"]),
        (lambda t: t.requires_grad_(), ValueError, ["temperature", "no gradient", "detach"]),
        (lambda t: t.index_fill_(0, torch.tensor(2), -0.5), ValueError, ["temperature", "above 0", "-0.5", "row 2"]),
        (lambda t: t.index_fill_(0, torch.tensor(3), 0.0), ValueError, ["temperature", "above 0", "row 3"]),
        (lambda t: t.index_fill_(0, torch.tensor(5), torch.inf), ValueError, ["temperature", "finite", "inf", "row 5"]),
        (lambda t: t.index_fill_(0, torch.tensor(6), torch.nan), ValueError, ["temperature", "nan", "row 6"]),
        (lambda t: t.to("meta"), ValueError, ["temperature", "cpu", "meta"]),
    ],
)
def test_bad_temperatures(change, error, words):
    logits, targets, temperature = rows(torch.float32)
    with pytest.raises(error) as raised:
        fastpref.logprobs(logits, targets, temperature=change(temperature))
    for word in words:
        assert word in str(raised.value)
