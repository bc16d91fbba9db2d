"""Weighted sums of losses."""

import pytest
import torch

import fastpref
from fastpref.objectives import Mixture
from tests import family


def grad_of(objective, call):
    (g,) = torch.autograd.grad(family.TokenCall(**{**call.__dict__, "objective": objective}).run().loss, call.policy)
    return g


def test_a_mixture_is_the_weighted_sum():
    """MPO, arXiv 2411.10442."""
    names, weights = ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]
    mixed = fastpref.objective(names, loss_weights=weights, beta=0.3)
    call = family.token_call(mixed)
    parts = [fastpref.objective(name, beta=0.3) for name in names]
    outs = []
    for part in parts:
        reference = None if part.traits.reference == "none" else call.reference
        outs.append(family.TokenCall(**{**call.__dict__, "objective": part, "reference": reference}).run().loss)
    expected = sum(w * out for w, out in zip(weights, outs, strict=True))
    assert call.run().loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (wanted,) = torch.autograd.grad(expected, call.policy)
    torch.testing.assert_close(grad_of(mixed, call), wanted, rtol=1e-12, atol=0)


def test_default_weights_and_shared_hyper_parameters():
    mixed = fastpref.objective(["sigmoid", "hinge"], beta=0.7)
    assert mixed.weights is None
    assert [m.beta for m in mixed.members] == [0.7, 0.7]
    call = family.token_call(mixed)
    assert call.run().loss.item() > 0


def test_traits_are_those_of_the_sum():
    both = fastpref.objective(["sigmoid", "robust"]).traits
    assert both.margin_only
    assert both.coupling == "pair"
    with_sort = fastpref.objective(["sigmoid", "aot"]).traits
    assert with_sort.coupling == "batch"
    assert with_sort.reference == "required"
    assert fastpref.objective(["simpo", "sft"]).traits.reference == "none"
    assert fastpref.objective(["rpo_sq", "sft"]).traits.data == ("rewards",)


def test_ld_alpha_does_not_touch_the_likelihood_term():
    """TRL's sft takes plain token log-probs, whatever ld_alpha does to the others."""
    call = family.token_call(fastpref.objective(["sigmoid", "sft"], ld_alpha=0.2))
    apart = family.token_call(fastpref.objective("sigmoid", ld_alpha=0.2)).run().loss
    plain = family.token_call(fastpref.objective("sft")).run().loss
    assert call.run().loss.item() == pytest.approx((apart + plain).item(), rel=1e-12)


def test_states_are_kept_apart():
    mixed = fastpref.objective(["beta_dpo", "aot"])
    assert set(mixed.initial_state()) == {"0.mean", "0.deviation", "0.draws"}
    call = family.token_call(mixed)
    first = call.run()
    second = call.run(state=first.state)
    alone = family.token_call(fastpref.objective("beta_dpo"))
    after = alone.run(state=alone.run().state).state
    for name, value in after.items():
        torch.testing.assert_close(second.state[f"0.{name}"], value)


def test_metrics_of_all_members():
    out = family.token_call(fastpref.objective(["sigmoid", "cpo"])).run()
    assert {"rewards/margins", "nll_loss"} <= set(out.metrics)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fastpref.objective([]), ValueError, "at least one"),
        (lambda: fastpref.objective(["sigmoid", "sft"], loss_weights=[1.0]), ValueError, "one per loss"),
        (lambda: fastpref.objective(["sigmoid", "grpo"]), ValueError, "works on tokens"),
        (lambda: fastpref.objective(["sigmoid", "sft"], betta=1.0), TypeError, "did you mean 'beta'"),
        (lambda: fastpref.objective("sigmoid", loss_weights=[1.0]), TypeError, "loss_weights"),
        (lambda: fastpref.objective(["sigmoid", "stf"]), ValueError, "did you mean 'sft'"),
        (lambda: fastpref.objective(["sigmoid", "sft"], loss_weights=[1.0, "2"]), TypeError, "loss_weights"),
        (lambda: fastpref.objective(["sigmoid", "sft"], loss_weights=1.0), TypeError, "list of numbers"),
    ],
)
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_items_must_be_the_same():
    for other in ("apo_zero_unpaired", "infonca"):
        with pytest.raises(ValueError, match=rf"sigmoid has a loss per pair and {other} per"):
            fastpref.objective(["sigmoid", other])
    different = Mixture((fastpref.objective("sigmoid", ld_alpha=0.5), fastpref.objective("hinge")))
    with pytest.raises(ValueError, match="ld_alpha"):
        family.token_call(different).run()
