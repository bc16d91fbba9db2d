"""PRA losses against formulas written here."""

import math

import pytest
import torch

import fastpref
from fastpref.objectives import DPO, SequenceBatch


def one_pair(h_chosen: float, h_rejected: float) -> SequenceBatch:
    policy = torch.tensor([h_chosen, h_rejected], dtype=torch.float64, requires_grad=True)
    return SequenceBatch(policy, None, torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("margin", [-1e5, -300.0, -1.0, 0.0, 0.5, 40.0, 300.0, 1e5])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_dpo_value_and_derivative(margin, beta):
    b = one_pair(margin - 1e3, -1e3)
    loss = DPO(beta).losses(b)
    (grad,) = torch.autograd.grad(loss.sum(), b.policy)
    z = beta * margin
    softplus = max(-z, 0.0) + math.log1p(math.exp(-abs(z)))
    sigmoid = math.exp(-z) / (1 + math.exp(-z)) if z > 0 else 1 / (1 + math.exp(z))
    assert loss.item() == pytest.approx(softplus, rel=1e-12)
    assert grad.tolist() == pytest.approx([-beta * sigmoid, beta * sigmoid], rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_dpo_refuses_a_beta_that_is_not_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        fastpref.objective("sigmoid", beta=beta)


def test_names():
    assert fastpref.objective("sigmoid", beta=0.3) == DPO(0.3)
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        fastpref.objective("sigmod")
    with pytest.raises(TypeError, match="did you mean 'beta'"):
        fastpref.objective("sigmoid", betta=0.3)
