"""BDA in expectation over a small set of responses, and sample by sample."""

import math
from dataclasses import replace

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch, TokenBatch
from fastpref.objectives.bda import BDA
from fastpref.packing import cu_seqlens_from_lengths

N, TAU = 5, 0.7


@pytest.fixture
def tabular():
    g = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(N, generator=g, dtype=torch.float64)  # noqa: E731
    theta, reference, reward, mu = draw(), draw().log_softmax(0), draw(), draw().softmax(0)
    return theta.requires_grad_(), reference, reward, mu


def in_expectation(objective, theta, reference, reward, sampler, **data):
    """Value and gradient in the logits of ``E_sampler[loss]``, the sampler fixed."""
    logps = theta.log_softmax(0)
    losses = objective.losses(SequenceBatch(logps, reference, torch.ones(N), {"rewards": reward, **data}))
    value = (sampler.detach() * losses).sum()
    return value.item(), torch.autograd.grad(value, theta)[0]


# The k3 estimate is of a divergence from a reference, which a prior-free loss has not.
@pytest.mark.parametrize(
    ("kl", "prior_free"), [("k1", False), ("k1", True), ("k2", False), ("k2", True), ("k3", False)]
)
@pytest.mark.parametrize("off_policy", [False, True])
def test_is_the_gradient_of_the_divergence(tabular, kl, off_policy, prior_free):
    theta, reference, reward, mu = tabular
    reference = None if prior_free else reference
    p = theta.detach().softmax(0)
    data = {"old_logps": mu.log()} if off_policy else {}
    data["baseline"] = torch.full((N,), -1.3, dtype=torch.float64)
    value, grad = in_expectation(BDA(TAU, kl), theta, reference, reward, mu if off_policy else p, **data)

    prior = torch.zeros(N, dtype=torch.float64) if prior_free else reference
    h = p.log() - prior
    log_z = torch.logsumexp(prior + reward / TAU, 0)
    divergence = (p * (p.log() - (prior + reward / TAU - log_z))).sum()
    coefficient = (1 - torch.exp(-h) if kl == "k3" else h) - reward / TAU
    torch.testing.assert_close(grad, p * (coefficient - (p * coefficient).sum()), rtol=1e-11, atol=1e-14)
    if kl != "k2":  # whose estimate is right to second order only
        assert value == pytest.approx((divergence - log_z).item(), rel=1e-12)


def one(objective, lp, lref, r, **data):
    policy = torch.tensor([lp], dtype=torch.float64, requires_grad=True)
    tensors = {k: torch.tensor([v], dtype=torch.float64) for k, v in {"rewards": r, **data}.items()}
    loss = objective.losses(SequenceBatch(policy, torch.tensor([lref], dtype=torch.float64), torch.ones(1), tensors))
    return loss.item(), torch.autograd.grad(loss.sum(), policy)[0].item()


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize(("reward", "shift"), [(3.0, 0.5), (3.0, 0.1), (-3.0, -0.5), (-3.0, 0.5)])
def test_one_sample_with_clip(kl, reward, shift):
    h, w, b = 0.4, math.exp(shift), 0.25
    objective = BDA(0.5, kl, epsilon=0.2, epsilon_high=0.3)
    value, grad = one(objective, -10.0, -10.4, reward, baseline=b, old_logps=-10.0 - shift)
    estimate = {"k1": h, "k2": h * h / 2, "k3": math.exp(-h) - 1 + h}[kl]
    slope = {"k1": h, "k2": h, "k3": 1 - math.exp(-h)}[kl]
    advantage = reward / 0.5 + b - (h if kl == "k1" else 0.0)
    clipped = (advantage > 0 and w > 1.3) or (advantage < 0 and w < 0.8)
    wanted = (0.0 if clipped else -advantage) + (0.0 if kl == "k1" else slope)
    assert value == pytest.approx(w * (estimate - reward / 0.5), rel=1e-12)
    assert grad == pytest.approx(w * wanted, rel=1e-12)


def test_old_logps_of_tokens_are_summed():
    g = torch.Generator().manual_seed(0)
    lp = -torch.rand(5, generator=g, dtype=torch.float64)
    old = lp + 0.1 * torch.randn(5, generator=g, dtype=torch.float64)
    lengths, sequence = torch.tensor([2, 3]), torch.tensor([0, 0, 1, 1, 1])
    tokens = TokenBatch(lp, None, torch.ones(5, dtype=torch.bool), sequence, cu_seqlens_from_lengths(lengths))
    b = SequenceBatch(tokens.sums(lp), None, lengths, {"rewards": torch.ones(2), "old_logps": old}, tokens=tokens)
    by_sums = replace(b, data={**b.data, "old_logps": tokens.sums(old)})
    assert torch.equal(BDA().losses(b), BDA().losses(by_sums))
    with pytest.raises(ValueError, match="old_logps"):
        BDA().losses(replace(b, tokens=None))


def test_exact_kl_is_differentiated():
    policy = torch.tensor([-2.0, -3.0], dtype=torch.float64, requires_grad=True)
    kl = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    data = {"rewards": torch.tensor([1.0, 0.0], dtype=torch.float64), "old_logps": torch.tensor([-2.5, -3.0])}
    b = SequenceBatch(policy, policy.detach() - 1, torch.ones(2), data, kl=kl)
    objective = BDA(0.5, "exact")
    losses = objective.losses(b)
    w = [math.exp(0.5), 1.0]
    assert losses.tolist() == pytest.approx([w[0] * (0.3 - 2.0), 0.8], rel=1e-12)
    by_logps, by_kl = torch.autograd.grad(losses.sum(), (policy, kl))
    assert by_logps.tolist() == pytest.approx([-2.0 * w[0], 0.0], rel=1e-12)
    assert by_kl.tolist() == pytest.approx(w, rel=1e-12)
    assert objective.traits.vocabulary == ("reverse_kl",)
    assert objective.traits.reference == "required"
    assert objective.metrics(b)["kl"].item() == pytest.approx(0.55)
    with pytest.raises(ValueError, match="exact"):
        objective.losses(replace(b, kl=None))


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_stay_finite(kl, dtype):
    policy = torch.tensor([-1e5, -1e5, 0.0, 0.0], dtype=dtype, requires_grad=True)
    reference = torch.tensor([-9e4, -1.1e5, -1e4, 0.0], dtype=dtype)
    data = {"rewards": torch.ones(4, dtype=dtype), "old_logps": reference.flip(0)}
    for epsilon in (None, 0.2):
        losses = BDA(kl=kl, epsilon=epsilon).losses(SequenceBatch(policy, reference, torch.ones(4), data))
        (grad,) = torch.autograd.grad(losses.sum(), policy)
        assert bool(losses.isfinite().all())
        assert bool(grad.isfinite().all())


def test_targets_are_declared():
    assert "forward-KL" in BDA(kl="k3").traits.target
    assert BDA(kl="k2").traits.target == BDA().traits.target
    assert BDA().traits.surrogate


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.0}, {"kl": "k4"}, {"epsilon": 1.5}, {"epsilon": 0.2, "epsilon_high": -0.1}, {"epsilon_high": 0.2}],
)
def test_hyper_parameters_are_checked(options):
    with pytest.raises(ValueError, match="|".join(options)):
        BDA(**options)


def test_data_are_checked():
    data = {"rewards": torch.zeros(2), "baseline": torch.zeros(3)}
    with pytest.raises(ValueError, match="baseline"):
        BDA().check(SequenceBatch(torch.zeros(2), None, torch.ones(2), data))
