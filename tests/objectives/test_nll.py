"""Likelihood losses: means over tokens, of a call and of the parts it is run in."""

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.nll import NLL, SFT

LOGPS = [-7.0, -3.5, -9.25, -1.0]
LENGTHS = [5, 2, 6, 1]


def batch(**data) -> SequenceBatch:
    policy = torch.tensor(LOGPS, dtype=torch.float64, requires_grad=True)
    return SequenceBatch(policy, None, torch.tensor(LENGTHS), data)


@pytest.mark.parametrize(("data", "total"), [({}, 14), ({"num_items_in_batch": torch.tensor(40.0)}, 40)])
def test_nll_is_the_mean_over_tokens(data, total):
    b = batch(**data)
    losses = NLL().losses(b)
    (grad,) = torch.autograd.grad(losses.mean(), b.policy)
    assert losses.mean().item() == pytest.approx(-sum(LOGPS) / total, rel=1e-14)
    assert grad.tolist() == pytest.approx([-1 / total] * 4, rel=1e-14)
    parts = torch.cat([NLL().losses(b.slice(slice(k, k + 1))) for k in range(4)])
    assert torch.equal(parts, losses)


def test_sft_is_the_mean_over_the_tokens_of_the_chosen():
    b = batch()
    losses = SFT().losses(b)
    (grad,) = torch.autograd.grad(losses.mean(), b.policy)
    assert losses.mean().item() == pytest.approx(10.5 / 7, rel=1e-14)
    assert grad.tolist() == pytest.approx([-1 / 7, -1 / 7, 0.0, 0.0], rel=1e-14)
    parts = torch.cat([SFT().losses(b.slice(torch.tensor([i, i + 2]))) for i in range(2)])
    assert torch.equal(parts, losses)


@pytest.mark.parametrize("objective", [NLL(), SFT()])
def test_extremes_stay_finite(objective):
    policy = torch.tensor([-1e5, 0.0, -1e5, 0.0], dtype=torch.float32, requires_grad=True)
    losses = objective.losses(SequenceBatch(policy, None, torch.tensor(LENGTHS)))
    (grad,) = torch.autograd.grad(losses.sum(), policy)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


def test_hyper_parameters_are_checked():
    with pytest.raises(ValueError, match="beta"):
        SFT(beta=0.0)
