"""A third-party loss, a plain Python function, on fused log-probs."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

import fastpref
from fastpref.objectives import PairwiseObjective, Traits, from_function, register
from tests import family


def logistic(policy, reference, *, scale=0.1):
    """DPO, as someone else would write it."""
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(scale * (chosen - rejected))


def deviation(objective, **options):
    call = family.linear_call(fastpref.objective("sigmoid", beta=0.1))
    call.fused(plan="D0").loss.backward()
    wanted = [leaf.grad.clone() for leaf in call.leaves]
    for leaf in call.leaves:
        leaf.grad = None
    out = fastpref.linear_preference_loss(
        objective, call.hidden, call.weight, call.targets, call.cu_seqlens, bias=call.bias, reference=call.reference,
        **options,
    )  # fmt: skip
    out.loss.backward()
    return out, max(float((a - leaf.grad).abs().max()) for a, leaf in zip(wanted, call.leaves, strict=True))


def test_a_function_in_place_of_a_name():
    out, worst = deviation(logistic, scale=0.1)
    (resident,) = [other for other in out.plan.rejected if other.design == "D1"]
    assert "couples all sequences" in resident.reason, "nothing is known of what it couples"
    assert worst < 1e-15


def test_declared_separable_it_runs_in_one_pass():
    out, worst = deviation(from_function(logistic, coupling="pair", scale=0.1), plan="D1")
    assert out.plan.design == "D1"
    assert worst < 1e-15
    assert "rewards/margins" in out.metrics


def test_a_scalar_and_lengths_and_tensors():
    def weighted(policy, reference, *, lengths, sample_weights):
        return (sample_weights * policy / lengths).sum()

    weights = torch.arange(8, dtype=torch.float64)
    call = family.linear_call(fastpref.objective("nll"))
    out = fastpref.linear_preference_loss(
        weighted, call.hidden, call.weight, call.targets, call.cu_seqlens, bias=call.bias, sample_weights=weights
    )
    lengths = torch.tensor([3, 2, 3, 1, 4, 2, 3, 4])  # two tokens of the third are ignored
    torch.testing.assert_close(out.loss, (weights * out.logps / lengths).sum())
    by_sequence = from_function(
        lambda policy, reference, lengths, sample_weights: sample_weights * policy / lengths, coupling="sequence"
    )
    again = fastpref.linear_preference_loss(
        by_sequence, call.hidden, call.weight, call.targets, call.cu_seqlens, bias=call.bias, sample_weights=weights,
        plan="D1",
    )  # fmt: skip
    torch.testing.assert_close(8 * again.loss, out.loss)


@pytest.mark.parametrize(
    ("function", "options", "error", "words"),
    [
        (lambda policy, reference: policy.sum().item(), {}, TypeError, "expected a floating scalar"),
        (lambda policy, reference: policy.view(2, -1), {}, TypeError, r"found \[2, 2\]"),
        (lambda policy, reference: policy, {"coupling": "pair"}, TypeError, "expected 2 losses, found 4"),
        (lambda policy, reference: policy.sum(), {"coupling": "pair"}, TypeError, "needs one loss per item"),
    ],
)
def test_what_a_function_may_return(function, options, error, words):
    with pytest.raises(error, match=words):
        fastpref.preference_loss(from_function(function, **options), -torch.arange(1.0, 5.0))


def test_what_from_function_refuses():
    with pytest.raises(TypeError, match="callable"):
        from_function("sigmoid")
    with pytest.raises(ValueError, match="coupling"):
        from_function(logistic, coupling="token")
    with pytest.raises(ValueError, match="takes no reference"):
        fastpref.preference_loss(from_function(logistic, reference="none"), torch.zeros(2), torch.zeros(2))
    with pytest.raises(TypeError, match="objective: expected a name"):
        fastpref.preference_loss(3, torch.zeros(2))


def test_a_class_of_its_own_registers_under_a_name(monkeypatch):
    monkeypatch.setattr(fastpref.objectives, "OBJECTIVES", dict(fastpref.objectives.OBJECTIVES))

    @register
    @dataclasses.dataclass(frozen=True)
    class Quartic(PairwiseObjective):
        """``(1 - beta Delta)^4``."""

        name = "quartic"
        traits = Traits("PRA", "none", "(1-z)^4", "-4 beta (1-z)^3", "pair", "optional", "none", margin_only=True)
        beta: float = 0.1

        def pair_losses(self, chosen, rejected):
            return (1 - self.beta * (chosen.log_ratio() - rejected.log_ratio())) ** 4

    policy = torch.tensor([-10.0, -12.0], dtype=torch.float64)
    assert fastpref.preference_loss("quartic", policy, beta=0.2).loss.item() == pytest.approx(0.6**4)
    assert family.deviation(family.linear_call(Quartic()), plan="D1")[1] < 1e-12
