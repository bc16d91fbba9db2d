"""Every loss of the family from hidden states, under every plan that its traits allow, against plain PyTorch with full logits."""

import pytest
import torch

from tests import family


def has_d1(objective) -> bool:
    return "D1" in family.plans(objective)


@family.each()
def test_every_allowed_plan_equals_the_plain_composition(objective):
    for plan in family.plans(objective):
        call = family.linear_call(objective)
        loss, gradient = family.deviation(call, plan=plan)
        assert loss < 1e-11, plan
        assert gradient < 1e-11, plan


@family.each(has_d1)
def test_d1_in_several_groups(objective):
    call = family.linear_call(objective)
    out = call.fused(plan="D1", budget_bytes=14 * (37 * 8 + 300))
    assert len(out.plan.groups) > 1, "the budget holds the largest prompt and not the call"
    assert family.deviation(call, plan="D1", budget_bytes=14 * (37 * 8 + 300))[1] < 1e-11


@family.each(lambda o: not has_d1(o))
def test_a_plan_that_is_not_allowed_is_refused(objective):
    with pytest.raises(ValueError, match="'D1' cannot be used"):
        family.linear_call(objective).fused(plan="D1")


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
