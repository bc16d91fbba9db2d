"""What plan D2 needs to know of an objective beforehand, and what it does with one that declares it wrongly."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import fastpref
from fastpref.objectives.base import PairwiseObjective, SequenceObjective, Traits
from tests import family, oracle

LENGTHS = [4, 3, 5, 2]


def call(p: oracle.Problem, objective, **options) -> fastpref.PreferenceOutput:
    return fastpref.linear_preference_loss(
        objective, p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, **options
    )


@dataclass(frozen=True)
class Plain(SequenceObjective):
    """A function of the weighted sum, and with ``plain`` of the unweighted one too."""

    plain: bool = False
    name: ClassVar[str] = "plain"
    traits = Traits("NLL", "none", "-s", "-1", "sequence", "optional", "none")

    def losses(self, batch):
        return batch.policy.square() - (batch.likelihood() if self.plain else 0.0)


@dataclass(frozen=True)
class Liar(PairwiseObjective):
    """Declares that it depends on the margin alone, and does not."""

    name: ClassVar[str] = "liar"
    traits = Traits("PRA", "none", "-2 s_w + s_l", "-2, 1", "pair", "optional", "none", margin_only=True)

    def pair_losses(self, chosen, rejected):
        return rejected.policy - 2 * chosen.policy


def test_a_loss_of_weighted_and_plain_sums_has_no_known_direction():
    p = oracle.make_problem(torch.float64, LENGTHS)
    weights = torch.rand(14, dtype=torch.float64)
    assert call(p, Plain(), token_weights=weights, plan="D2").plan.design == "D2"
    assert call(p, Plain(plain=True), plan="D2").plan.design == "D2", "without weights both sums are one"
    with pytest.raises(ValueError, match="'D2' cannot be used: the direction"):
        call(p, Plain(plain=True), token_weights=weights, plan="D2")


def test_token_weights_are_the_direction():
    p, q = (oracle.make_problem(torch.float64, LENGTHS) for _ in range(2))
    weights = torch.rand(14, dtype=torch.float64).index_fill(0, torch.tensor([1, 6]), 0.0)
    call(p, "hinge", token_weights=weights, plan="D2").loss.backward()
    call(q, "hinge", token_weights=weights, plan="D0").loss.backward()
    for a, b in zip(p.grads(), q.grads(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_a_unit_without_weight_has_no_gradient():
    p = oracle.make_problem(torch.float64, LENGTHS)
    weights = torch.ones(14, dtype=torch.float64)
    weights[4:7], weights[12:] = 0.0, 0.0  # the second pair
    call(p, "sigmoid", token_weights=weights, plan="D2").loss.backward()
    assert all(g.isfinite().all() for g in p.grads())
    assert not p.hidden.grad[4:7].any()


def test_a_false_declaration_is_an_error_and_no_wrong_gradient():
    p = oracle.make_problem(torch.float64, LENGTHS)
    with pytest.raises(ValueError, match=r"liar: expected .* along the direction .* take plan='D1'"):
        call(p, Liar(), plan="D2")


@family.each(lambda o: "D2" in family.plans(o))
def test_row_blocks_of_any_size_give_the_same(objective):
    linear = family.linear_call(objective)
    least = family.least_budget(linear, "D2")
    blocks = set()
    for budget in (least, least + 3000, 1 << 20):
        out = linear.fused(plan="D2", budget_bytes=budget)
        blocks.add(out.plan.row_block)
        assert family.deviation(linear, plan="D2", budget_bytes=budget)[1] < 1e-11
    assert len(blocks) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pairs", [1, 40])
def test_16_bit_sums_are_rounded_once(dtype, pairs):
    p = oracle.make_problem(dtype, [9] * (2 * pairs), vocab=400, hidden=16)
    exact, plain = p.at(torch.float64), p.at(dtype)
    oracle.linear_dpo(exact, 0.3).backward()
    oracle.linear_dpo(plain, 0.3).backward()

    def run(**options):
        return call(p, "sigmoid", beta=0.3, reference=p.reference, plan="D2", **options)

    out = run(budget_bytes=family.refused_budget(run) + 1000)
    out.loss.backward()
    assert out.plan.float32_weight_gradient
    assert out.plan.row_block < 18
    for a, b, c in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        oracle.assert_precise(a, b, c, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)
