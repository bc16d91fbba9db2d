"""Every loss of the family from hidden states, under every plan that its traits allow, against plain PyTorch with full logits."""

import pytest
import torch

from tests import family


@family.each()
def test_every_allowed_plan_equals_the_plain_composition(objective):
    for plan in family.plans(objective):
        call = family.linear_call(objective)
        loss, gradient = family.deviation(call, plan=plan)
        assert loss < 1e-11, plan
        assert gradient < 1e-11, plan


@family.each()
def test_the_smallest_budget_of_each_plan(objective):
    """D1 in several groups, D2 in several blocks of rows, D3 with a part of the rows kept."""
    call = family.linear_call(objective)
    for plan in family.plans(objective)[1:]:
        budget = family.least_budget(call, plan) + 40
        out = call.fused(plan=plan, budget_bytes=budget)
        assert out.plan.scratch_bytes <= budget
        if plan == "D1":
            assert len(out.plan.groups) > 1
        elif plan == "D2":
            assert out.plan.row_block == 1
        else:
            assert out.plan.kept_rows == 1
        assert family.deviation(call, plan=plan, budget_bytes=budget)[1] < 1e-11


@pytest.mark.parametrize("plan", ["D1", "D2", "D3"])
@family.each()
def test_a_plan_that_is_not_allowed_is_refused(objective, plan):
    if plan not in family.plans(objective):
        with pytest.raises(ValueError, match=f"'{plan}' cannot be used"):
            family.linear_call(objective).fused(plan=plan)


@family.each()
def test_float32(objective):
    for plan in family.plans(objective):
        assert family.deviation(family.linear_call(objective, torch.float32), plan=plan)[1] < 1e-4, plan


def test_upstream_gradient_and_learnt_data():
    call = family.linear_call(family.make("ppo"))
    (3.0 * call.fused(plan="D1").loss).backward()
    thrice = [leaf.grad.clone() for leaf in call.leaves]
    for leaf in call.leaves:
        leaf.grad = None
    call.fused(plan="D0").loss.backward()
    for a, leaf in zip(thrice, call.leaves, strict=True):
        torch.testing.assert_close(a, 3.0 * leaf.grad)
    assert call.data["values"].grad.abs().max() > 0


@family.each()
def test_ignored_rows_get_no_gradient_whatever_they_hold(objective):
    call = family.linear_call(objective)
    bad = call.targets < 0
    with torch.no_grad():
        call.hidden[bad] = torch.nan
        for value in call.data.values():
            if value.shape == bad.shape and value.dtype.is_floating_point:
                value[bad] = torch.inf
    for plan in family.plans(objective):
        call.hidden.grad = None
        call.fused(plan=plan).loss.backward()
        assert torch.equal(call.hidden.grad[bad], torch.zeros_like(call.hidden.grad[bad]))
        assert call.hidden.grad.isfinite().all()
