"""A loss from given logits in two launches of ``csrc/cuda``, in the emulator: what they move, how exact they are, and that no order matters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import fastpref
from fastpref import packing
from fastpref.backends import LogitTransform

from .. import family, oracle
from ..emulation.cuda import control, require_emulated
from ..emulation.cuda.control import Seen

CU = torch.tensor([0, 3, 5, 9, 12], dtype=torch.int32)
ROWS = 12
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 8.0, "logit_scale": 1.5},
}


@pytest.fixture(scope="module", autouse=True)
def backend():
    return require_emulated()


def placed(values: torch.Tensor, padding: int, offset: int) -> torch.Tensor:
    """The same numbers in rows that begin ``offset`` elements behind a 64-byte address, with NaN between them."""
    rows, columns = values.shape
    flat = torch.full((rows * (columns + padding) + 64,), torch.nan, dtype=values.dtype)
    start = -flat.data_ptr() % 64 // values.element_size() + offset
    out = flat[start:].as_strided((rows, columns), (columns + padding, 1))
    out.copy_(values)
    return out


def draw(columns: int, dtype: torch.dtype, rows: int = ROWS, seed: int = 0):
    """``(policy, reference, targets)``; row 4 is ignored and holds NaN."""
    g = torch.Generator().manual_seed(seed)
    policy = torch.randn(rows, columns, generator=g) * 3
    reference = policy + 0.3 * torch.randn(rows, columns, generator=g)
    targets = torch.randint(0, columns, (rows,), generator=g)
    if rows > 4:
        targets[4] = -100
        policy[4] = reference[4] = torch.nan
    return policy.to(dtype), reference.to(dtype), targets


def run(policy, reference, targets, cu_seqlens=CU, upstream=1.0, name="sigmoid", **options):
    """The output and the gradient of the logits as they lie, overwritten in place."""
    logits = policy.clone(memory_format=torch.preserve_format) if policy.is_contiguous() else policy
    graph = logits.requires_grad_() * 1 if logits is not policy else _as_output(logits)
    out = fastpref.logits_preference_loss(
        name, graph, targets, cu_seqlens, reference=reference, backend="cuda", inplace_backward=True, **options
    )
    (out.loss * upstream).backward()
    return out, graph.detach()


def _as_output(logits: torch.Tensor) -> torch.Tensor:
    """The very memory of ``logits`` as what a model would have computed."""

    class Hand(torch.autograd.Function):
        @staticmethod
        def forward(ctx, leaf, values):
            return values.view_as(values)

        @staticmethod
        def backward(ctx, grad):
            return grad.sum(), None

    return Hand.apply(torch.zeros((), requires_grad=True), logits)


def plain(policy, reference, targets, dtype, cu=CU, beta=0.3, **options):
    """DPO in plain torch in that dtype of arithmetic, and its gradient."""
    active = targets >= 0
    x = policy.to(dtype).masked_fill(~active[:, None], 0).requires_grad_()

    def sums(logits):
        z = oracle.transform(logits, **options)
        logps = z.log_softmax(-1).gather(1, targets.clamp_min(0)[:, None]).squeeze(1).masked_fill(~active, 0)
        return oracle.sequence_logps(logps, cu)

    loss = oracle.dpo_loss(sums(x), sums(reference.to(dtype).masked_fill(~active[:, None], 0)), beta)
    loss.backward()
    return loss.detach(), x.grad


def judge(out, grad, policy, reference, targets, cu=CU, **options):
    """The logits are given: what is judged is float32 arithmetic on them and one rounding of the gradient."""
    exact = plain(policy, reference, targets, torch.float64, cu, **options)
    yardstick = plain(policy, reference, targets, torch.float32, cu, **options)
    oracle.assert_precise(out.loss, exact[0], yardstick[0], oracle.LOSS_FACTOR)
    plain_grad = yardstick[1].to(grad.dtype)
    oracle.assert_precise(grad, exact[1], plain_grad, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)


@dtypes
@pytest.mark.parametrize("columns", [1, 7, 31, 1000, 1003])
def test_loss_and_gradient(dtype, columns) -> None:
    policy, reference, targets = draw(columns, dtype)
    out, grad = run(policy, reference, targets, beta=0.3)
    judge(out, grad, policy, reference, targets)
    assert (grad[4] == 0).all()


@pytest.mark.parametrize("name", list(OPTIONS)[1:])
def test_transforms(name) -> None:
    policy, reference, targets = draw(203, torch.bfloat16)
    out, grad = run(policy, reference, targets, beta=0.3, **OPTIONS[name])
    judge(out, grad, policy, reference, targets, **OPTIONS[name])


@dtypes
def test_vocabulary_of_32768(dtype) -> None:
    policy, reference, targets = draw(32768, dtype, rows=3)
    cu = torch.tensor([0, 1, 3], dtype=torch.int32)
    out, grad = run(policy, reference, targets, cu, beta=0.3)
    judge(out, grad, policy, reference, targets, cu)


@pytest.mark.parametrize("sequences", [2, 16, 64])
def test_sequences_of_one_row(sequences) -> None:
    policy, reference, targets = draw(50, torch.float32, rows=sequences)
    targets = targets.clamp_min(0)
    policy, reference = policy.nan_to_num(0.5), reference.nan_to_num(0.25)
    cu = torch.arange(sequences + 1, dtype=torch.int32)
    out, grad = run(policy, reference, targets, cu, beta=0.3)
    judge(out, grad, policy, reference, targets, cu)


@dtypes
@pytest.mark.parametrize(("padding", "policy_at", "reference_at"), [(3, 1, 1), (5, 1, 2), (8, 0, 3)])
def test_rows_that_lie_anywhere(dtype, padding, policy_at, reference_at) -> None:
    """Strided rows that begin at no multiple of 16 bytes; where policy and reference lie differently their equal rows still have equal sums."""
    policy, reference, targets = draw(515, dtype)
    expected = run(policy, reference, targets, beta=0.3)
    mine, near = placed(policy, padding, policy_at), placed(reference, padding, reference_at)
    out, grad = run(mine, near, targets, beta=0.3)
    torch.testing.assert_close(out.loss, expected[0].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, expected[1], rtol=2e-3 if dtype != torch.float32 else 1e-5, atol=1e-7)
    out, _ = run(placed(policy, padding, policy_at), placed(policy, padding, reference_at), targets, beta=0.3)
    assert torch.equal(out.logps, out.ref_logps)
    assert out.metrics["rewards/margins"] == 0
    assert out.loss == torch.tensor(math.log(2), dtype=torch.float32)


@contextmanager
def announcing(**tensors: torch.Tensor) -> Iterator[Seen]:
    """Only these and what is allocated meanwhile may be accessed."""
    real, made = torch.empty, []

    def watched_empty(*args, **kwargs):
        made.append(real(*args, **kwargs))
        if made[-1].numel():
            control().watch(made[-1])
        return made[-1]

    with control().watching(**tensors) as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", watched_empty)
        yield seen


@pytest.mark.parametrize("online", [True, False], ids=["reference logits", "reference log-probs"])
def test_traffic_is_the_minimum(backend, online) -> None:
    """8 bytes per bfloat16 logit, 6 with a precomputed reference: policy read twice, reference once, the gradient written once. Two launches."""
    columns = 1000
    policy, reference, targets = draw(columns, torch.bfloat16)
    known, upstream = reference if online else -3 - torch.rand(ROWS), torch.ones(())
    with announcing(policy=policy, known=known, targets=targets, cu=CU, upstream=upstream) as seen:
        staged = backend.stage.forward(
            "sigmoid", [0.3], policy, known if online else None, targets, CU, ignore_index=-100, data=[],
            transform=LogitTransform(), ref_logps=None if online else known, weights=None, number=None, divisors=None,
            reward_scale=0.3,
        )  # fmt: skip
        swept = control().counts(0)
        assert control().totals().launches == 1
        backend.stage.backward(policy, targets, staged.lse, staged.coef, upstream, policy, LogitTransform())
    assert seen.totals.launches == 2
    active = int((targets >= 0).sum())
    once = 2 * active * columns
    assert (swept.loads, swept.wide_loads, swept.stores) == (
        once + 2 * active,
        once,
        0,
    )  # and the target's column again
    policy_seen = seen["policy"]
    assert (policy_seen.loads - swept.loads, policy_seen.wide_loads - swept.wide_loads) == (once, once)
    written = 2 * ROWS * columns  # silent rows too
    assert (policy_seen.stores, policy_seen.wide_stores) == (written, written)
    if online:
        assert (seen["known"].loads, seen["known"].wide_loads) == (once + 2 * active, once)
    everything = policy_seen.loads + policy_seen.stores + (seen["known"].loads if online else 0)
    assert 0 <= everything - (8 if online else 6) * active * columns <= 2 * (ROWS - active) * columns + 4 * active


def test_nothing_outside_of_the_logits_is_touched(backend) -> None:
    """Every access lies in what was announced: rows without what is between them, the outputs, the workspace."""
    policy, reference, targets = draw(515, torch.bfloat16)
    mine, near = placed(policy, 5, 3), placed(reference, 3, 1)
    with announcing(policy=mine, reference=near, targets=targets, cu=CU) as seen:
        staged = backend.stage.forward(
            "sigmoid", [0.1], mine, near, targets, CU, ignore_index=-100, transform=LogitTransform(), data=[],
            ref_logps=None, weights=None, number=None, divisors=None, reward_scale=0.1,
        )  # fmt: skip
    active = int((targets >= 0).sum())
    assert seen["policy"].loads == seen["reference"].loads == 2 * active * 516
    assert seen["policy"].stores == seen["reference"].stores == 0
    assert staged.loss.isfinite()
    assert (staged.lse[4], staged.logps[4], staged.coef[4]) == (0, 0, 0)


@pytest.mark.parametrize("name", ["sigmoid", "grpo", "kto"])
def test_no_order_of_threads_or_blocks_matters(backend, name, monkeypatch) -> None:
    policy, reference, targets = draw(1003, torch.bfloat16)
    objective = family.make(name)
    data = family.data(objective, CU.diff().tolist(), torch.Generator().manual_seed(1))
    known = None if objective.traits.reference == "none" else reference
    for multiprocessors in (0, 64):
        monkeypatch.setattr(backend, "multiprocessors", multiprocessors)
        found = []
        for seed in (0, 1, 2):
            with control().shuffled(seed):
                found.append(run(policy, known, targets, name=objective, **data))
        for out, grad in found[1:]:
            assert torch.equal(out.loss, found[0][0].loss)
            assert torch.equal(out.losses, found[0][0].losses)
            assert torch.equal(grad, found[0][1])


def test_rows_in_parts(backend, monkeypatch) -> None:
    """With fewer rows than multiprocessors; it is still two launches."""
    policy, reference, targets = draw(20011, torch.bfloat16, rows=3)
    cu = torch.tensor([0, 1, 3], dtype=torch.int32)
    whole = run(policy, reference, targets, cu, beta=0.3)
    monkeypatch.setattr(backend, "multiprocessors", 12)
    with control().watching() as seen:
        split = run(policy, reference, targets, cu, beta=0.3)
    assert seen.totals.launches == 2
    torch.testing.assert_close(split[0].loss, whole[0].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(split[0].logps, whole[0].logps, rtol=1e-6, atol=0)
    torch.testing.assert_close(split[1].float(), whole[1].float(), rtol=2**-7, atol=1e-9)


@dtypes
def test_a_policy_that_is_the_reference(dtype) -> None:
    policy, _, targets = draw(777, dtype)
    out, _ = run(policy, policy.clone(), targets, beta=0.1)
    assert out.loss == torch.tensor(math.log(2), dtype=torch.float32)
    assert out.metrics["rewards/margins"] == 0
    assert torch.equal(out.logps, out.ref_logps)


def test_rewards_and_margins_come_from_the_launch(backend) -> None:
    policy, reference, targets = draw(100, torch.float32)
    staged = backend.stage.forward(
        "sigmoid", [0.3], policy, reference, targets, CU, ignore_index=-100, transform=LogitTransform(), data=[],
        ref_logps=None, weights=None, number=None, divisors=None, reward_scale=0.3,
    )  # fmt: skip
    rewards = 0.3 * (staged.sums[0] - staged.sums[1])
    torch.testing.assert_close(staged.rewards, rewards, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(staged.margins, rewards[:2] - rewards[2:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(staged.losses, torch.nn.functional.softplus(-staged.margins), rtol=1e-12, atol=0)
    with control().watching() as seen:
        out, _ = run(policy, reference, targets, beta=0.3)
        metrics = dict(out.metrics)
    assert seen.totals.launches == 2
    torch.testing.assert_close(metrics["rewards/margins"], staged.margins.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(metrics["rewards/chosen"], staged.rewards[:2].mean(), rtol=1e-12, atol=0)


def test_an_upstream_gradient_multiplies_on_the_device() -> None:
    policy, reference, targets = draw(100, torch.float32)
    one, five, none = (run(policy, reference, targets, upstream=u, beta=0.3)[1] for u in (1.0, -5.0, 0.0))
    torch.testing.assert_close(five, -5 * one, rtol=1e-6, atol=0)
    assert (none == 0).all()


def test_sums_of_long_sequences_are_exact(backend) -> None:
    """A log-ratio of 256 tokens is off by much less than 1e-3 nats."""
    rows, columns = 512, 5
    g = torch.Generator().manual_seed(3)
    policy = torch.randn(rows, columns, generator=g) * 8
    near = policy + 0.2 * torch.randn(rows, columns, generator=g)
    targets = torch.randint(0, columns, (rows,), generator=g)
    cu = torch.tensor([0, 256, 512], dtype=torch.int32)
    out, _ = run(policy, near, targets, cu, beta=0.1)
    exact = [
        oracle.sequence_logps(x.double().log_softmax(-1).gather(1, targets[:, None]).squeeze(1), cu)
        for x in (policy, near)
    ]
    assert oracle.error(out.logps - out.ref_logps, exact[0] - exact[1]) < 1e-4
    assert oracle.error(out.loss, oracle.dpo_loss(*exact, 0.1)) < 1e-5


@pytest.mark.parametrize(
    "cu",
    [[-7, 2, 900], [0, 0, 6], [0, 6, 6], [3, 1, 6], [0, 4, 2, 6, 6], [2, 3, 4], [0, 2, 4, 6]],
    ids=str,
)
def test_no_boundary_leads_outside_of_the_rows(backend, cu) -> None:
    """What would be an error of the caller on the CPU is not looked at on a GPU: it reads nothing wild and leaves no number that nobody wrote."""
    policy, reference, targets = draw(50, torch.float32, rows=6)
    nan = {"ref_logps": None, "weights": None, "number": None, "divisors": None}
    real = torch.empty

    def poisoned(*args, **kwargs):
        made = real(*args, **kwargs)
        return made.fill_(12345.0) if made.dtype == torch.float32 else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        staged = backend.stage.forward(
            "sigmoid", [0.1], policy, reference, targets, torch.tensor(cu, dtype=torch.int32), ignore_index=-100,
            transform=LogitTransform(), data=[], reward_scale=None, **nan,
        )  # fmt: skip
    assert (staged.coef != 12345).all()
    assert staged.loss != 12345


def test_an_empty_sequence_counts_as_one_of_no_tokens(backend) -> None:
    """As in the formula run in PyTorch where nothing is checked: a sum of 0."""
    policy, reference, targets = draw(50, torch.float32, rows=4)
    cu = torch.tensor([0, 0, 1, 4, 4], dtype=torch.int32)
    staged = backend.stage.forward(
        "sigmoid", [0.3], policy, reference, targets, cu, ignore_index=-100, transform=LogitTransform(), data=[],
        ref_logps=None, weights=None, number=None, divisors=None, reward_scale=None,
    )  # fmt: skip
    tokens = [x.log_softmax(-1).gather(1, targets[:, None]).squeeze(1) for x in (policy.double(), reference.double())]
    wanted = [packing.segment_sum(x, cu) for x in tokens]
    torch.testing.assert_close(staged.sums, torch.stack(wanted), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(staged.loss.double(), oracle.dpo_loss(*wanted, 0.3), rtol=1e-6, atol=0)


def test_a_target_outside_of_the_vocabulary_is_nan_and_not_read(backend) -> None:
    policy, reference, targets = draw(50, torch.float32, rows=4)
    targets[2] = 50
    with control().watching():
        staged = backend.stage.forward(
            "sigmoid", [0.3], policy, reference, targets, torch.tensor([0, 2, 4], dtype=torch.int32), ignore_index=-100,
            transform=LogitTransform(), data=[], ref_logps=None, weights=None, number=None, divisors=None,
            reward_scale=None,
        )  # fmt: skip
    assert staged.logps[2].isnan()
    assert staged.loss.isnan()
    assert staged.logps[[0, 1, 3]].isfinite().all()
