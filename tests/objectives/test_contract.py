"""What every registered objective must keep: its declared traits are checked against its behaviour."""

import dataclasses

import pytest
import torch

import fastpref
from fastpref.objectives import OBJECTIVES, SequenceBatch
from fastpref.objectives.base import Objective


def batch(objective: Objective, pairs: int = 3, seed: int = 0) -> SequenceBatch:
    g = torch.Generator().manual_seed(seed)
    policy = -20 * torch.rand(2 * pairs, generator=g, dtype=torch.float64)
    reference = None
    if objective.traits.reference != "none":
        reference = policy + torch.randn(2 * pairs, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, 20, (2 * pairs,), generator=g)
    return SequenceBatch(policy.requires_grad_(), reference, lengths)


def gradient(objective: Objective, b: SequenceBatch) -> torch.Tensor:
    (g,) = torch.autograd.grad(objective.losses(b).sum(), b.policy)
    return g


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request) -> Objective:
    return fastpref.objective(request.param)


def test_registered_under_its_own_name(objective):
    assert OBJECTIVES[objective.name] is type(objective)


def test_is_a_frozen_value(objective):
    assert objective == fastpref.objective(objective.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.beta = 3.0


def test_derivative_agrees_with_central_differences(objective):
    b = batch(objective)
    assert torch.autograd.gradcheck(lambda p: objective.losses(dataclasses.replace(b, policy=p)), (b.policy,))


def test_declared_margin_only(objective):
    g = gradient(objective, batch(objective))
    chosen, rejected = g.chunk(2)
    assert torch.allclose(chosen, -rejected, rtol=1e-12, atol=0) is objective.traits.margin_only


def test_declared_coupling_by_pair(objective):
    if objective.traits.coupling != "pair":
        pytest.skip("couples otherwise")
    b = batch(objective)
    whole = gradient(objective, b)
    pairs = b.policy.shape[0] // 2
    for i in range(pairs):
        sequences = torch.tensor([i, pairs + i])
        alone = b.select(sequences, b.policy[sequences].detach().requires_grad_())
        torch.testing.assert_close(gradient(objective, alone), whole[sequences], rtol=1e-12, atol=0)


def test_declared_reference(objective):
    b = batch(objective)
    if objective.traits.reference == "required":
        with pytest.raises(ValueError, match="needs a reference"):
            fastpref.preference_loss(objective, b.policy, lengths=b.lengths)
    if objective.traits.reference == "optional":
        with_reference = objective.losses(b)
        assert not torch.allclose(objective.losses(dataclasses.replace(b, reference=None)), with_reference)


def test_declared_token_reduction(objective):
    b = batch(objective)
    longer = dataclasses.replace(b, lengths=b.lengths + 7)
    same = torch.equal(objective.losses(longer), objective.losses(b))
    assert same is (objective.traits.token_reduction == "sum")
