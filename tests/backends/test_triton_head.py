"""The linear head in Triton kernels, in the interpreter: gradients against float64, and the public functions under every plan."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastpref
from fastpref import work
from fastpref.backends.base import STATISTICS, LogitTransform, RowState
from fastpref.backends.chunked_gradients import normalised_coefficients
from fastpref.backends.cpu_head import HeadTiling

from .. import oracle
from ..emulation import require_triton, watch
from ..oracle import assert_precise
from .linear_cases import BF16, CASES, F16, F32, Case

require_triton()

from fastpref.backends.triton_head import TritonHead  # noqa: E402

HEAD = TritonHead()
WHOLE, CUT = HeadTiling(4096, 4096), HeadTiling(224, 32)


def run_statistics(case: Case, kept_rows: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(logps, lse, kept)``, keeping what there is to keep of the first rows as the loops above an engine do: in a call of their own."""
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32)
    size = HEAD.kept_bytes(*case.dtypes, case.transform, kept_rows, case.vocab)
    kept = torch.empty(size, dtype=torch.uint8) if kept_rows else None
    for block, buffer in ((slice(0, kept_rows), kept), (slice(kept_rows, case.rows), None)):
        part = (hidden[block], weight, bias, targets[block], state.rows(block), case.transform.rows(block))
        HEAD.statistics(*part, kept=buffer, kept_rows=kept_rows if buffer is not None else 0)
    return *state.finish(targets), kept


def run_gradients(case: Case, tiling: HeadTiling = WHOLE, kept_rows: int = 0, **into: Any) -> dict[str, Tensor]:
    hidden, weight, bias, _ = case.operands
    logps, lse, kept = run_statistics(case, kept_rows)
    out = {"dx": torch.full(hidden.shape, torch.nan, dtype=hidden.dtype)}
    out["dw"] = torch.full(weight.shape, torch.nan, dtype=weight.dtype)
    if bias is not None:
        out["db"] = torch.zeros(case.vocab)
    out |= into
    coefs = case.tensors["onehot"], case.tensors["softmax"]
    HEAD.gradients(
        *case.operands, lse, *coefs, case.transform, tiling, dx=out["dx"], dw=out["dw"], db=out.get("db"),
        add_to_dw=into.get("dw") is not None, kept=kept, kept_rows=kept_rows, logps=logps,
    )  # fmt: skip
    return out


def assert_gradients(case: Case, found: dict[str, Tensor]) -> None:
    exact = case.plain(torch.float64)
    plain = case.plain(case.dtypes[0] if case.dtypes[0] == case.dtypes[1] else F32)
    for what, value in found.items():
        wide = value.float() if what == "db" else value
        assert_precise(wide, exact[what], plain[what], 3.0, ulps=24.0, what=what)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name) -> None:
    case = CASES[name]
    with watch():
        if name in ("bf16", "fp16, softcap", "fp32, all transforms", "one of each", "odd"):
            assert_gradients(case, run_gradients(case))
        assert_gradients(case, run_gradients(case, CUT, kept_rows=case.rows * 2 // 3))


def test_a_gradient_that_is_not_wanted_is_not_made() -> None:
    case = Case()
    whole = run_gradients(case)
    for what in ("dx", "dw", "db"):
        alone = run_gradients(case, **dict.fromkeys({"dx", "dw", "db"} - {what}))
        assert torch.equal(alone[what], whole[what])


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_adding_to_dw(dtype) -> None:
    case = Case(dtypes=(dtype, dtype))
    fresh = run_gradients(case)["dw"]
    main_grad = torch.full((case.vocab, case.width + 4), 3.0)[:, : case.width]
    run_gradients(case, CUT, dw=main_grad)
    torch.testing.assert_close(main_grad - 3.0, fresh.float(), rtol=2 * torch.finfo(dtype).eps, atol=2e-6)
    same = torch.full(fresh.shape, 3.0, dtype=dtype)
    run_gradients(case, WHOLE if dtype == F32 else CUT, dw=same)
    torch.testing.assert_close(same, fresh + 3.0, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dtypes", "keep_rows"), [((BF16, BF16), (0, 24)), ((F16, F16), (24,)), ((F32, BF16), (0,))], ids=str
)
def test_ignored_and_silent_rows_reach_nothing(dtypes, keep_rows) -> None:
    case, rest = (Case(rows=40, vocab=90, dtypes=dtypes) for _ in range(2))
    gone = torch.tensor([0, 3, 38, 39])
    case.tensors["targets"][gone[:2]] = -1
    case.tensors["onehot"][gone[2:]] = case.tensors["softmax"][gone[2:]] = 0.0
    found = {kept: run_gradients(case, kept_rows=kept) for kept in keep_rows}
    poisoned = case.tensors["hidden"].clone()
    poisoned[gone] = torch.nan
    case.tensors["hidden"] = poisoned
    for kept, wanted in found.items():
        again = run_gradients(case, kept_rows=kept)
        assert not again["dx"][gone].any()
        assert all(torch.equal(again[what], value) for what, value in wanted.items())
    keep = torch.ones(40, dtype=torch.bool)
    keep[gone] = False
    rest.rows = 36
    rest.tensors.update({k: v[keep] for k, v in rest.tensors.items() if v.shape[0] == 40})
    first = found[keep_rows[0]]
    assert_gradients(rest, first | {"dx": first["dx"][keep]})


def test_float16_coefficients_far_apart_and_tiny() -> None:
    """A mean over a large batch: coefficients that float16 cannot hold, and rows that differ by many powers of two."""
    case = Case(rows=19, dtypes=(F16, F16))
    spread = torch.logspace(-9, -3, 19)
    for name in ("onehot", "softmax"):
        case.tensors[name] = case.tensors[name] * spread
    found, exact = run_gradients(case), case.plain(torch.float64)
    small = torch.finfo(F16).tiny
    for r in range(19):
        limit = 2.0**-9 * exact["dx"][r].abs().max() + small
        assert (found["dx"][r].double() - exact["dx"][r]).abs().max() <= limit
    assert (found["dw"].double() - exact["dw"]).abs().max() <= 2.0**-9 * exact["dw"].abs().max() + small


def test_normalised_coefficients_are_exact() -> None:
    onehot = torch.tensor([3.0, 0.0, 0.0, 1e-40, -5.0, torch.nan, 1.0])
    softmax = torch.tensor([-0.75, 1.0, 0.0, 0.0, 6.0, 1.0, 1.0])
    targets = torch.tensor([0, 1, 2, 3, 4, 5, -1])
    a, b, factor = normalised_coefficients(onehot, softmax, targets, LogitTransform(temperature=0.5))
    assert factor[:5].tolist() == [8.0, 4.0, 0.0, 2.0**-131, 16.0]
    assert factor[5].isnan()
    assert factor[6] == 0.0
    live = factor.nan_to_num() != 0
    assert torch.equal((a * factor)[live], 2 * onehot[live])
    assert torch.equal((b * factor)[live], 2 * softmax[live])
    assert (torch.maximum(a.abs(), b.abs())[live] < 1).all()


def test_errors() -> None:
    assert "found torch.float64" in HEAD.why_not(torch.float64, F32)
    assert all(HEAD.why_not(a, b) is None for a in (F32, BF16, F16) for b in (F32, BF16, F16))
    case = CASES["bf16"]
    state = RowState.start(case.rows, case.operands[0].device, F32)
    with pytest.raises(ValueError, match="kept_rows: expected all 70 rows, found 5"):
        HEAD.statistics(*case.operands, state, case.transform, kept=torch.empty(0, dtype=torch.uint8), kept_rows=5)


# --- the public functions ---------------------------------------------------------------------------------------------


def problem(dtype: torch.dtype, bias: bool = True, lengths: tuple[int, ...] = (12, 9, 14, 10)) -> oracle.Problem:
    return oracle.make_problem(dtype, list(lengths), hidden=40, vocab=333, bias=bias)


def call(p: oracle.Problem, objective: str = "sigmoid", **options: Any) -> Any:
    options = {"reference": p.reference, "beta": 0.1} | options
    return fastpref.linear_preference_loss(
        objective, p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, backend="triton", **options
    )


def run(p: oracle.Problem, objective: str = "sigmoid", **options: Any) -> fastpref.PreferenceOutput:
    out = call(p, objective, **options)
    out.loss.backward()
    return out


def budget_for(p: oracle.Problem, plan: str) -> int | None:
    """D3: a budget that keeps some rows and not all."""
    if plan != "D3":
        return None
    active = int((p.targets >= 0).sum())
    for budget in range(20_000, 400_000, 1_000):
        try:
            if 0 < call(p, plan=plan, budget_bytes=budget, explain=True).kept_rows < active:
                return budget
        except ValueError:
            pass
    raise AssertionError("no budget keeps some rows and not all")


@pytest.mark.parametrize(
    ("plan", "dtype"), [*((p, d) for p in ("D0", "D3") for d in (F32, BF16, F16)), ("D1", BF16), ("D2", F16)], ids=str
)
def test_loss_and_gradients_under_every_plan(dtype, plan) -> None:
    p = problem(dtype)
    exact, plain = p.at(torch.float64), p.at(dtype)
    budget = budget_for(p, plan)
    with work.count_gemm() as count:  # and no watch, which keeps the tensors of every launch
        out = run(p, plan=plan, budget_bytes=budget)
    assert out.plan.design == plan
    assert budget is None or out.plan.scratch_bytes <= budget
    assert (out.plan.kept_rows > 0) == (plan == "D3")
    losses = [oracle.linear_dpo(q, 0.1) for q in (exact, plain)]
    assert_precise(out.loss, *losses, oracle.LOSS_FACTOR, what="loss")
    for loss in losses:
        loss.backward()
    for found, wanted, usual in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        assert_precise(found, wanted, usual, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS, what="gradient")
    assert count.flops == out.plan.flops
    made = sum(g.numel() * g.element_size() for g in p.grads())
    assert count.peak_bytes - made <= out.plan.scratch_bytes + 4096


@pytest.mark.parametrize(("plan", "dtype"), [("D0", BF16), ("D1", F32), ("D2", BF16), ("D3", F32)], ids=str)
def test_a_policy_that_is_its_reference_has_loss_ln_2(dtype, plan) -> None:
    p = problem(dtype)
    with torch.no_grad():
        for mine, other in ((p.ref_hidden, p.hidden), (p.ref_weight, p.weight), (p.ref_bias, p.bias)):
            mine.copy_(other)
    budget = budget_for(p, plan)
    with watch(shuffle_seed=0) as launches:
        out = run(p, plan=plan, budget_bytes=budget)
    kernels = {launch.kernel for launch in launches}
    assert kernels >= {"_linear_stats", "_merge_partials", "_scale_rows"}
    assert ("_linear_grad" in kernels) == (plan in ("D0", "D3"))
    assert ("_kept_grad" in kernels) == (plan != "D0")
    assert torch.equal(out.logps, out.ref_logps)
    assert out.metrics["rewards/margins"].item() == 0.0
    assert out.loss.item() == pytest.approx(math.log(2), abs=6e-8)


@pytest.mark.parametrize("dtypes", [(BF16, F32), (F32, BF16), (BF16, F16)], ids=str)
def test_mixed_dtypes(dtypes) -> None:
    p = problem(F16)
    exact = p.at(torch.float64)
    for names, dtype in (
        (("hidden", "ref_hidden"), dtypes[0]),
        (("weight", "bias", "ref_weight", "ref_bias"), dtypes[1]),
    ):
        for name in names:
            value = getattr(p, name).detach().to(dtype)
            getattr(exact, name).data.copy_(value)
            setattr(p, name, value.requires_grad_(not name.startswith("ref")))
    with work.count_gemm() as count:
        out = run(p, plan="D0")
    loss = oracle.linear_dpo(exact, 0.1)
    loss.backward()
    assert out.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    for found, wanted in zip(p.grads(), exact.grads(), strict=True):
        assert oracle.error(found, wanted) <= 2.0 * torch.finfo(found.dtype).eps * wanted.abs().max() + 1e-7
    assert count.flops == out.plan.flops
    made = sum(g.numel() * g.element_size() for g in p.grads())
    assert count.peak_bytes - made <= out.plan.scratch_bytes + 4096


@pytest.mark.parametrize("plan", ["D0", "D3"])
def test_token_log_probs(plan) -> None:
    p = problem(BF16, bias=False)
    exact, temperature = p.at(torch.float64), torch.linspace(0.5, 2.0, 45)
    found = fastpref.linear_logprobs(
        p.hidden,
        p.weight,
        p.targets,
        softcap=8.0,
        temperature=temperature,
        stats=STATISTICS,
        plan=plan,
        backend="triton",
    )
    z = oracle.transform(exact.hidden @ exact.weight.t(), softcap=8.0) / temperature.double()[:, None]
    live = p.targets >= 0
    logp = z.log_softmax(-1)
    wanted = logp.gather(1, p.targets.clamp_min(0)[:, None]).squeeze(1) * live
    torch.testing.assert_close(found.logps.double(), wanted, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.entropy.double(), -(logp.exp() * logp).sum(-1) * live, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.mean_logit.double(), z.mean(-1) * live, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.log_sum_sq_probs.double(), (2 * logp).logsumexp(-1) * live, rtol=2e-6, atol=2e-6)
    upstream = torch.randn(45, generator=torch.Generator().manual_seed(1))
    found.logps.backward(upstream)
    wanted.backward(upstream.double())
    for a, b in ((p.hidden.grad, exact.hidden.grad), (p.weight.grad, exact.weight.grad)):
        assert (a.double() - b).norm() <= 2.0**-8 * b.norm()


def test_a_shared_head_runs_in_one_sweep() -> None:
    p, q = problem(F32, bias=False), problem(F32, bias=False)
    together = run(p, plan="D0", reference=(p.ref_hidden, p.weight))
    apart = run(q, plan="D0", reference=(q.ref_hidden, q.weight.detach().clone()))
    assert torch.equal(together.logps, apart.logps)
    assert torch.equal(together.ref_logps, apart.ref_logps)
    assert together.plan.flops == apart.plan.flops
    assert torch.equal(p.hidden.grad, q.hidden.grad)
    assert torch.equal(p.weight.grad, q.weight.grad)


def test_main_grad_and_a_second_backward() -> None:
    p, q = problem(BF16, bias=False), problem(BF16, bias=False)
    main_grad = torch.zeros(p.weight.shape)
    run(p, plan="D0", main_grad=main_grad)
    run(q, plan="D0")
    assert p.weight.grad is None
    torch.testing.assert_close(main_grad, q.weight.grad.float(), rtol=2.0**-7, atol=1e-6)
    torch.testing.assert_close(p.hidden.grad, q.hidden.grad, rtol=0, atol=0)


def test_operator_contracts() -> None:
    """Schema and fake kernels agree with what runs, kept logits included."""
    p = problem(BF16, bias=False, lengths=(6, 5, 8, 5))
    arguments = (
        p.hidden.detach(),
        p.weight.detach(),
        None,
        p.targets.clamp_min(-1),
        None,
        1.0,
        None,
        1.0,
        128,
        64,
        "triton",
    )
    for more in ((), ("entropy", None, 20, True)):
        torch.library.opcheck(
            torch.ops.fastpref.linear_logprobs.default,
            (*arguments, *more),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_objective_that_needs_a_divergence_runs_by_chunks() -> None:
    p, q = (problem(F32, bias=False, lengths=(3, 2, 4, 2)) for _ in range(2))
    out = run(p, "tdpo1")
    other = fastpref.linear_preference_loss(
        "tdpo1", q.hidden, q.weight, q.targets, q.cu_seqlens, reference=q.reference, beta=0.1, backend="eager"
    )
    assert out.loss.item() == pytest.approx(other.loss.item(), rel=1e-5)
