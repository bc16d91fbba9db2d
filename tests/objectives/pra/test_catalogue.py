"""All preference losses at once: golden values, what they declare, and that the parts of a call are the call."""

import dataclasses

import pytest
import torch

import fastpref
from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.catalogue_pra import entries

from .plain import GOLDEN, KNOWN, MODERATE, batch_of, losses_and_derivatives, make
from .test_kwise import batch_of as groups_of
from .test_unpaired import batch_of as labelled

GOLDEN_VALUES = [
    ("sigmoid", {}, (0.616344, 0.854355), (-0.046009, -0.057444), (0.046009, 0.057444)),
    ("cdpo", {"label_smoothing": 0.1}, (0.632344, 0.824355), (-0.036009, -0.047444), (0.036009, 0.047444)),
    ("hinge", {}, (0.84, 1.3), (-0.1, -0.1), (0.1, 0.1)),
    ("ipo_sum", {}, (11.56, 64), (-6.8, -16), (6.8, 16)),
    ("ipo", {}, (23.04, 27.825625), (-1.371429, -0.879167), (1.066667, 1.055)),
    ("bco_pair", {}, (1.307919, 1.541914), (-0.048251, -0.053743), (0.047752, 0.053743)),
    ("apo_zero", {}, (0.960022, 1.074860), (-0.024969, -0.024860), (0.024949, 0.024860)),
    (
        "f_dpo",
        {"f_divergence_type": "js_divergence"},
        (0.652126, 0.770957),
        (-0.015896, -0.043939),
        (0.034059, 0.009804),
    ),
    ("simpo", {"beta": 2.5, "simpo_gamma": 1.375}, (1.761829, 1.421918), (-0.295811, -0.158073), (0.230075, 0.189687)),
]


@pytest.mark.parametrize(("name", "hyper", "losses", "a_w", "a_l"), GOLDEN_VALUES)
def test_golden_pairs(name, hyper, losses, a_w, a_l):
    objective = make(name, **hyper)
    found = losses_and_derivatives(objective, batch_of(objective, GOLDEN))
    for values, expected in zip(found, (losses, a_w, a_l), strict=True):
        assert values == pytest.approx(list(expected), abs=6e-7)


def test_golden_orpo_odds_ratio_term():
    objective = make("orpo")
    losses, a_w, a_l = losses_and_derivatives(objective, batch_of(objective, GOLDEN))
    share = (7 + 12) / 2
    assert [x - nll / share for x, nll in zip(losses, (12.3, 20.5), strict=True)] == pytest.approx(
        [0.074269, 0.063925], abs=6e-7
    )
    assert [x + 1 / share for x in a_w] == pytest.approx([-0.009049, -0.004807], abs=6e-7)
    assert a_l == pytest.approx([0.007162, 0.005658], abs=6e-7)


def test_golden_kto():
    batch = labelled([0.7, -1.5, -0.9, 1.5], [True, True, False, False], mismatched_log_ratios=[0.2])
    losses = make("kto").losses(batch)
    (grad,) = torch.autograd.grad(losses.sum(), batch.policy)
    assert losses.tolist() == pytest.approx([0.487503, 0.542398, 0.472528, 0.532454], abs=6e-7)
    assert grad.tolist() == pytest.approx([-0.024984, -0.024820, 0.024925, 0.024895], abs=6e-7)


def test_golden_plackett_luce():
    policy = torch.tensor([0.7, -0.2, -0.9], dtype=torch.float64, requires_grad=True)
    data = {"groups": torch.zeros(3, dtype=torch.int64), "ranks": torch.arange(3)}
    loss = make("plackett_luce").losses(SequenceBatch(policy, None, torch.ones(3, dtype=torch.int64), data))
    (grad,) = torch.autograd.grad(loss.sum(), policy)
    assert loss.tolist() == pytest.approx([1.676189], abs=6e-7)
    assert grad.tolist() == pytest.approx([-0.063848, -0.015210, 0.079058], abs=6e-7)


def test_names():
    names = [name for _, names, _ in entries() for name in names]
    assert len(set(names)) == len(names)
    for cls, own, defaults in entries():
        assert cls.name in names
        assert cls(**defaults) == make(own[0])
        assert dataclasses.is_dataclass(cls)
        assert cls.__doc__
    assert fastpref.objective("sigmoid", beta=0.3) == make("dpo", beta=0.3)
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        fastpref.objective("sigmod")
    with pytest.raises(TypeError, match="did you mean 'beta'"):
        fastpref.objective("sigmoid", betta=0.3)
    assert make("ld_dpo").ld_alpha == 0.5
    assert make("wpo").use_weighting


def example(objective) -> SequenceBatch:
    """A batch that the objective takes."""
    coupling = objective.traits.coupling
    if coupling == "group":
        return groups_of()
    if coupling == "sequence":
        return labelled(mismatched_log_ratios=[0.3, 0.4])
    return batch_of(objective, MODERATE)


SEPARABLE = sorted(name for name in KNOWN if make(name).traits.coupling != "batch" and name != "wpo")


@pytest.mark.parametrize("name", SEPARABLE)
def test_parts_of_a_call_add_up_to_it(name):
    """What a plan relies on that sees one pair, sequence or group at a time."""
    objective = make(name)
    batch = example(objective)
    whole, count = objective.losses(batch), batch.policy.shape[0]
    parts = {
        "pair": [torch.tensor([i, count // 2 + i]) for i in range(count // 2)],
        "sequence": [torch.tensor([i]) for i in range(count)],
    }.get(objective.traits.coupling)
    if parts is None:
        parts = [(batch.data["groups"] == g).nonzero().flatten() for g in batch.data["groups"].unique()]
    found = torch.cat([objective.losses(batch.slice(part)) for part in parts])
    torch.testing.assert_close(found, whole, rtol=1e-13, atol=1e-14)
    assert objective.items(batch) == whole.shape[0] == len(parts)
    metrics = objective.metrics(batch)
    assert all(not value.requires_grad and value.dim() == 0 for value in metrics.values())


@pytest.mark.parametrize("name", SEPARABLE)
def test_declared_reference_and_lengths(name):
    """A loss that declares no lengths is the same for any, and one that declares no reference reads none."""
    objective = make(name)
    traits = objective.traits
    batch = example(objective)
    losses = objective.losses(batch)
    longer = dataclasses.replace(batch, lengths=batch.lengths + 1 + torch.arange(batch.lengths.shape[0]) % 3)
    assert torch.equal(objective.losses(longer), losses) is not traits.needs_lengths
    other = torch.linspace(-60, -1, batch.policy.shape[0], dtype=torch.float64)
    unmoved = torch.equal(objective.losses(dataclasses.replace(batch, reference=other)), losses)
    assert unmoved is (traits.reference == "none")
    if traits.margin_only:
        _, a_w, a_l = losses_and_derivatives(objective, batch)
        assert a_w == [-a for a in a_l]
