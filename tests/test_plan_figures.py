"""What a plan predicts is what its run takes: FLOPs to the last one, scratch never more; and work that does not exist is not done."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpref
from fastpref import backends, work
from tests import oracle

LENGTHS = [40, 33, 20, 41, 30, 28]
PLANS = ["D0", "D1", "D2", "D3"]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
DTYPES = [(torch.float64,) * 4, *itertools.product(FLOATS, FLOATS, FLOATS[:2], FLOATS[:2])]
"""Of hidden states and head, and of the reference's."""

MIXED = (torch.bfloat16, torch.float32, torch.float32, torch.float32)


def problem(dtype: torch.dtype = torch.float32, ignored: float = 0.2, bias: bool = False) -> oracle.Problem:
    return oracle.make_problem(dtype, LENGTHS, hidden=32, vocab=2500, ignored=ignored, bias=bias)


def cast_to(p: oracle.Problem, *dtypes: torch.dtype) -> oracle.Problem:
    """The problem with hidden states, head, and those of its reference in dtypes of their own."""
    for name, dtype in zip(("hidden", "weight", "ref_hidden", "ref_weight"), dtypes, strict=True):
        old = getattr(p, name)
        setattr(p, name, old.detach().to(dtype).requires_grad_(old.requires_grad))
    for name, dtype in (("bias", dtypes[1]), ("ref_bias", dtypes[3])):
        old = getattr(p, name)
        setattr(p, name, old if old is None else old.detach().to(dtype).requires_grad_(old.requires_grad))
    return p


@dataclass
class Measured:
    plan: Any
    count: work.Work
    gradients: int
    """Bytes of the gradients that were made."""
    loss: float


def measure(p: oracle.Problem, **options: Any) -> Measured:
    options = {"reference": p.reference, "bias": p.bias, **options}
    objective = options.pop("objective", "sigmoid")
    args = (objective, p.hidden, p.weight, p.targets, p.cu_seqlens)
    explained = fastpref.linear_preference_loss(*args, **options, explain=True)
    for leaf in (p.hidden, p.weight, p.bias):
        if leaf is not None:
            leaf.grad = None
    with work.count_gemm() as count:
        out = fastpref.linear_preference_loss(*args, **options)
        if out.loss.requires_grad:
            out.loss.backward()
    assert out.plan == explained
    made = [g for g in p.grads() if g is not None]
    return Measured(out.plan, count, sum(g.numel() * g.element_size() for g in made), out.loss.item())


def unit(p: oracle.Problem) -> int:
    """T * H * V of the rows that are not ignored."""
    return int((p.targets >= 0).sum()) * p.weight.numel()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("ignored", [0.0, 0.5])
def test_full_fine_tuning(plan, ignored):
    p = problem(ignored=ignored)
    run = measure(p, plan=plan)
    assert run.count.flops == run.plan.flops == (10 if plan == "D0" else 8) * unit(p), "an online reference costs 2THV"
    given = measure(p, plan=plan, reference=torch.zeros(6))
    assert given.count.flops == given.plan.flops == (8 if plan == "D0" else 6) * unit(p)


@pytest.mark.parametrize("plan", PLANS)
def test_half_of_the_rows_ignored_is_half_of_the_work(plan):
    p = problem(ignored=0.0)
    whole = measure(p, plan=plan, reference=torch.zeros(6))
    p.targets[::2] = -100
    half = measure(p, plan=plan, reference=torch.zeros(6))
    assert half.count.flops * 2 == whole.count.flops
    assert half.plan.scratch_bytes < whole.plan.scratch_bytes


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_a_frozen_side_has_no_gradient_product(plan, frozen):
    p = problem()
    getattr(p, frozen).requires_grad_(False)
    run = measure(p, plan=plan, reference=torch.zeros(6))
    assert run.count.flops == run.plan.flops == (6 if plan == "D0" else 4) * unit(p)
    assert getattr(p, frozen).grad is None


@pytest.mark.parametrize("plan", ["D0", "D3"])
def test_a_frozen_side_of_token_log_probs(plan):
    p = problem()
    p.weight.requires_grad_(False)
    with work.count_gemm() as count:
        out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, plan=plan)
        out.logps.sum().backward()
    assert count.flops == (6 if plan == "D0" else 4) * unit(p)
    explained = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, plan=plan, explain=True)
    assert (explained.design, explained.flops) == (plan, count.flops)


def test_without_gradients_the_forward_sweep_is_all():
    p = problem()
    with torch.no_grad():
        assert measure(p, reference=None).count.flops == 2 * unit(p)


@pytest.mark.parametrize("plan", PLANS)
def test_a_reference_of_another_width(plan):
    p = problem()
    narrow = (p.ref_hidden[:, :8].clone(), p.ref_weight[:, :8].clone())
    run = measure(p, plan=plan, reference=narrow)
    assert run.count.flops == run.plan.flops == (8 if plan == "D0" else 6) * unit(p) + unit(p) // 2


def test_a_divergence_makes_both_heads_again():
    p = problem()
    run = measure(p, objective="tdpo1")
    assert run.count.flops == run.plan.flops == 12 * unit(p)


class TestSharedHead:
    """A reference with the policy's own weight."""

    def reference(self, p: oracle.Problem) -> tuple[torch.Tensor, torch.Tensor]:
        return p.ref_hidden, p.weight

    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.parametrize("budget", [None, 2_500_000])
    def test_costs_its_forward_work_and_nothing_in_backward(self, plan, budget):
        p = problem()
        run = measure(p, plan=plan, reference=self.reference(p), budget_bytes=budget)
        again = 2 * (unit(p) - run.plan.kept_rows * p.weight.numel()) if plan in ("D0", "D3") else 0
        assert run.count.flops == run.plan.flops == 8 * unit(p) + again
        apart = measure(p, plan=plan, reference=(p.ref_hidden, p.weight.detach().clone()))
        assert run.loss == pytest.approx(apart.loss, rel=1e-6)

    def test_is_in_the_same_products_as_the_policy(self):
        p = problem()
        together = measure(p, plan="D0", reference=self.reference(p))
        apart = measure(p, plan="D0", reference=(p.ref_hidden, p.weight.detach().clone()))
        alone = measure(p, plan="D0", reference=torch.zeros(6))
        assert together.count.calls == alone.count.calls < apart.count.calls

    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_same_hidden_states_are_not_run_twice_and_every_margin_is_0(self, plan, dtype):
        p = problem(dtype)
        with torch.no_grad():
            p.ref_hidden.copy_(p.hidden)
            p.ref_hidden[p.targets < 0] = torch.nan
        run = measure(p, plan=plan, reference=self.reference(p))
        assert run.count.flops == run.plan.flops == (8 if plan == "D0" else 6) * unit(p)
        out = fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, reference=self.reference(p), plan=plan
        )
        assert torch.equal(out.logps, out.ref_logps)
        assert out.metrics["rewards/margins"].item() == 0.0

    @pytest.mark.parametrize("plan", PLANS)
    def test_gradients_are_those_of_a_head_of_its_own(self, plan):
        p, q = problem(torch.float64, bias=True), problem(torch.float64, bias=True)
        measure(p, plan=plan, reference=(p.ref_hidden, p.weight, p.bias))
        measure(q, plan="D0", reference=(q.ref_hidden, q.weight.detach().clone(), q.bias.detach().clone()))
        for a, b in zip(p.grads(), q.grads(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

    def test_autocast_casts_it_once(self):
        p = problem()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run = measure(p, plan="D0", reference=self.reference(p))
            apart = measure(p, plan="D0", reference=(p.ref_hidden, p.weight.detach().clone()))
        assert run.count.calls < apart.count.calls
        assert run.loss == pytest.approx(apart.loss, rel=1e-5)

    @pytest.mark.parametrize("plan", PLANS)
    def test_hidden_states_of_another_dtype_are_run_by_themselves(self, plan):
        p, q = (cast_to(problem(torch.bfloat16), *dtypes) for dtypes in (MIXED, (torch.float64,) * 4))
        run = measure(p, plan=plan, reference=self.reference(p))
        exact = measure(q, plan=plan, reference=self.reference(q))
        assert run.loss == pytest.approx(exact.loss, rel=1e-5)
        for a, b in zip(p.grads(), q.grads(), strict=True):
            assert (a.double() - b).norm() < 1e-2 * b.norm()

    @pytest.mark.parametrize("plan", PLANS)
    def test_nan_of_the_reference_names_its_row(self, plan):
        p = problem(ignored=0.0)
        p.ref_hidden[5, 2] = torch.nan
        with pytest.raises(ValueError, match="reference hidden: the log-probability of row 5 "):
            measure(p, plan=plan, reference=self.reference(p))


@given(
    dtypes=st.sampled_from(DTYPES),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    hidden=st.integers(1, 48),
    vocab=st.integers(1, 6000),
    ignored=st.sampled_from([0.0, 0.4]),
    bias=st.booleans(),
    reference=st.sampled_from(["none", "given", "online", "shared"]),
    frozen=st.sampled_from(["", "hidden", "weight"]),
    plan=st.sampled_from([None, *PLANS]),
    budget=st.integers(16, 24),
    objective=st.sampled_from(["sigmoid", "ipo", "simpo", "apo_zero_unpaired", "aot", "sft"]),
    backend=st.sampled_from([None, "eager"]),
    adds_to=st.booleans(),
    gradient_filter=st.sampled_from([None, None, 1e-3]),
)
@settings(max_examples=100, deadline=None)
def test_flops_are_as_predicted_and_memory_is_within_the_budget(
    dtypes, lengths, hidden, vocab, ignored, bias, reference, frozen, plan, budget, objective,
    backend, adds_to, gradient_filter,
):  # fmt: skip
    if backend is None and isinstance(reason := backends.load("cpu"), str):
        pytest.skip(reason)
    p = oracle.make_problem(torch.bfloat16, [*lengths, *reversed(lengths)], hidden, vocab, bias, ignored)
    p = cast_to(p, *dtypes)
    if frozen:
        getattr(p, frozen).requires_grad_(False)
    chosen = fastpref.objective(objective)
    needs = chosen.traits
    references = {
        "given": torch.zeros(2 * len(lengths)), "online": p.reference, "shared": (p.ref_hidden, p.weight, p.bias),
        "none": None,
    }  # fmt: skip
    known = references["given" if reference == "none" and needs.reference == "required" else reference]
    options = {"objective": chosen, "reference": None if needs.reference == "none" else known}
    if "desirable" in needs.data:
        options["desirable"] = torch.arange(2 * len(lengths)) % 2 == 0
    if adds_to and frozen != "weight":
        options["main_grad"] = torch.zeros(p.weight.shape, dtype=torch.promote_types(p.weight.dtype, torch.float32))
    limits = {"plan": plan, "budget_bytes": 1 << budget, "backend": backend, "gradient_filter": gradient_filter}
    try:
        run = measure(p, **options, **limits)
    except ValueError as refused:
        assert "budget" in str(refused) or "cannot be used" in str(refused)
        return
    # Rows whose coefficients are exactly 0 have no gradient: the rejected ones of sft, for one.
    exact = gradient_filter is None and objective not in ("sft", "apo_zero_unpaired")
    assert run.count.flops == run.plan.flops if exact else run.count.flops <= run.plan.flops, run.plan
    assert run.plan.scratch_bytes <= 1 << budget
    if backend is None and dtypes[0] != torch.float64:  # plain PyTorch has temporaries of the size of a chunk
        few = 4096  # the data, and sums per sequence
        assert run.count.peak_bytes - run.gradients <= run.plan.scratch_bytes + few, run.plan
