"""Group RDA against the pairs of its group."""

import itertools

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.rda import RDAGroup

IDS = [4, 1, 4, 9, 4, 1]
GROUPS = {1: [1, 5], 4: [0, 2, 4], 9: [3]}


def batch(dtype=torch.float64, scale=1.0) -> SequenceBatch:
    g = torch.Generator().manual_seed(1)
    draw = lambda: (scale * torch.randn(6, generator=g, dtype=torch.float64)).to(dtype)  # noqa: E731
    return SequenceBatch(
        draw().requires_grad_(), draw(), torch.ones(6), {"rewards": draw(), "groups": torch.tensor(IDS)}
    )


def test_is_the_mean_over_ordered_pairs():
    b, beta = batch(), 0.7
    objective = RDAGroup(beta)
    losses = objective.losses(b)
    (grad,) = torch.autograd.grad(losses.sum(), b.policy)
    r, h = b.data["rewards"].tolist(), (b.policy - b.reference).tolist()
    u = [x - beta * y for x, y in zip(r, h, strict=True)]
    wanted_losses, wanted_grad = [], [0.0] * 6
    for members in GROUPS.values():
        pairs = list(itertools.permutations(members, 2))
        wanted_losses.append(sum((u[i] - u[j]) ** 2 for i, j in pairs) / len(pairs) if pairs else 0.0)
        for i, j in pairs:
            wanted_grad[i] += -2 * beta * (u[i] - u[j]) / len(pairs)
            wanted_grad[j] += 2 * beta * (u[i] - u[j]) / len(pairs)
    assert losses.tolist() == pytest.approx(wanted_losses, rel=1e-12)
    assert grad.tolist() == pytest.approx(wanted_grad, rel=1e-12)
    assert objective.items(b) == 3
    assert torch.autograd.gradcheck(
        lambda p: objective.losses(SequenceBatch(p, b.reference, b.lengths, b.data)), (b.policy,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_stay_finite(dtype):
    b = batch(dtype, scale=1e5)
    losses = RDAGroup(0.1).losses(b)
    (grad,) = torch.autograd.grad(losses.sum(), b.policy)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


def test_hyper_parameters_are_checked():
    with pytest.raises(ValueError, match="beta"):
        RDAGroup(beta=0.0)
