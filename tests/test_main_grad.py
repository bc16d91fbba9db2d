"""``main_grad``: dW added in float32 to a buffer of the caller's, in backward."""

import pytest
import torch

import fastpref
from tests import oracle

BETA = 0.3


def preference(p, weight=None, **options):
    return fastpref.linear_preference_loss(
        "sigmoid", p.hidden, p.weight if weight is None else weight, p.targets, p.cu_seqlens, bias=p.bias,
        reference=p.reference, beta=BETA, **options,
    )  # fmt: skip


def buffer(p, seed=1):
    dtype = torch.promote_types(p.weight.dtype, torch.float32)
    return torch.randn(p.weight.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_dw_is_added_to_the_buffer_and_nowhere_else(dtype, plan):
    p = oracle.make_problem(dtype, [8, 9, 7, 10])
    exact, plain = p.at(torch.float64), p.at(dtype)
    for q in (exact, plain):
        (oracle.linear_dpo(q, BETA) * 2.5).backward()
    main_grad = buffer(p)
    before = main_grad.double().clone()
    loss = preference(p, plan=plan, main_grad=main_grad).loss
    assert torch.equal(main_grad.double(), before)
    (loss * 2.5).backward(retain_graph=True)
    assert p.weight.grad is None
    added = main_grad.double() - before
    # The sum is float32: of numbers near 1, so its rounding is in what was added.
    unit = torch.finfo(main_grad.dtype).eps * 64
    assert (added - exact.weight.grad).abs().max() <= 3 * oracle.error(plain.weight.grad, exact.weight.grad) + unit
    for a, b, c in zip((p.hidden, p.bias), (exact.hidden, exact.bias), (plain.hidden, plain.bias), strict=True):
        oracle.assert_precise(a.grad, b.grad, c.grad, oracle.GRADIENT_FACTOR)
    (loss * 2.5).backward()  # D1 and D2 make them again
    assert (main_grad.double() - before - 2 * added).norm() <= 1e-2 * added.norm()
    assert p.weight.grad is None


def test_linear_logprobs_several_calls_before_their_backwards():
    p = oracle.make_problem(torch.float32, [40])
    main_grad = torch.zeros_like(p.weight)
    losses = [
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias, main_grad=main_grad).logps.sum() * k
        for k in (1.0, 2.0)
    ]
    for loss in losses:
        loss.backward()
    exact = p.at(torch.float64)
    (3 * oracle.token_logps(exact.hidden, exact.weight, exact.bias, exact.targets).sum()).backward()
    torch.testing.assert_close(main_grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_frozen_backbone(plan):
    p = oracle.make_problem(torch.float32, [8, 9, 7, 10], bias=False)
    p.hidden.requires_grad_(False)
    main_grad = torch.zeros_like(p.weight)
    preference(p, plan=plan, main_grad=main_grad).loss.backward()
    preference(p).loss.backward()
    assert p.hidden.grad is None
    torch.testing.assert_close(main_grad, p.weight.grad, rtol=1e-4, atol=1e-7)


def test_the_sum_of_many_small_gradients_keeps_what_16_bits_lose():
    p = oracle.make_problem(torch.bfloat16, [30], ignored=0.0)
    exact = p.at(torch.float64)
    main_grad = torch.zeros(p.weight.shape)
    for _ in range(64):
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets, main_grad=main_grad).logps.sum().backward()
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets).logps.sum().backward()
    (64 * oracle.token_logps(exact.hidden, exact.weight, None, exact.targets).sum()).backward()
    errors = [
        ((g.double() - exact.weight.grad).norm() / exact.weight.grad.norm()).item() for g in (main_grad, p.weight.grad)
    ]
    assert errors[0] < 5e-3 < errors[1]


def test_row_blocks_and_groups_add_up():
    p = oracle.make_problem(torch.bfloat16, [70, 80], vocab=600)
    exact = p.at(torch.float64)
    (oracle.token_logps(exact.hidden, exact.weight, None, exact.targets).sum()).backward()
    for budget in (None, 250_000):
        main_grad = torch.zeros(p.weight.shape)
        out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, main_grad=main_grad, budget_bytes=budget)
        out.logps.sum().backward()
        assert (main_grad - exact.weight.grad).norm() < 5e-3 * exact.weight.grad.norm()


def test_under_autocast():
    p = oracle.make_problem(torch.float32, [30], ignored=0.0)
    main_grad = torch.zeros_like(p.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets, main_grad=main_grad).logps.sum().backward()
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets).logps.sum().backward()
    assert (main_grad - p.weight.grad).norm() < 1e-2 * p.weight.grad.norm()


def test_the_operator():
    p = oracle.make_problem(torch.bfloat16, [9])
    ids, a = p.targets.masked_fill(p.targets < 0, -1), torch.ones(9)
    parts = (p.hidden.detach(), p.weight.detach(), p.bias.detach(), ids, None, a, a.clone(), a.clone())
    needs, main_grad = [True, True, True], torch.zeros(p.weight.shape)
    args = (*parts, 1.0, None, 1.0, 128, 64, "eager", None, 0, None, needs, main_grad)
    torch.library.opcheck(torch.ops.fastpref.linear_logprobs_backward_into, args)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda w: torch.zeros(3, 3), ValueError, ["main_grad", "[301, 24]", "[3, 3]"]),
        (lambda w: torch.zeros(w.shape, dtype=torch.bfloat16), TypeError, ["main_grad", "float32", "bfloat16"]),
        (lambda w: torch.zeros(w.shape, requires_grad=True), ValueError, ["main_grad", "require grad"]),
        (lambda w: torch.zeros(w.shape, device="meta"), ValueError, ["main_grad", "cpu", "meta"]),
        (lambda w: [0.0], TypeError, ["main_grad", "list"]),
        (lambda w: torch.zeros(w.shape[1], w.shape[0]).t(), ValueError, ["main_grad", "strides (1, "]),
        (lambda w: torch.zeros(1, w.shape[1]).expand(w.shape), ValueError, ["main_grad", "strides (0, 1)"]),
    ],
)
def test_what_is_refused(make, error, words):
    p = oracle.make_problem(torch.float32, [8, 9])
    for call in (
        lambda g: fastpref.linear_logprobs(p.hidden, p.weight, p.targets, main_grad=g),
        lambda g: preference(p, main_grad=g),
    ):
        with pytest.raises(error) as raised:
            call(make(p.weight))
        for word in words:
            assert word in str(raised.value)


def test_a_frozen_head_is_refused():
    p = oracle.make_problem(torch.float32, [8, 9])
    with pytest.raises(ValueError, match="main_grad: expected a weight that requires grad"):
        preference(p, p.weight.detach(), main_grad=torch.zeros_like(p.weight))
