"""Losses that are the same, or the same up to a factor: each side is defined by itself."""

import math
from dataclasses import replace

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.ra import RA, AStarPO

from .pra.plain import MODERATE, batch_of, losses_and_derivatives, make
from .pra.test_unpaired import batch_of as labelled


def run(name, pairs=MODERATE, **hyper):
    objective = make(name, **hyper)
    return [torch.tensor(v, dtype=torch.float64) for v in losses_and_derivatives(objective, batch_of(objective, pairs))]


def same(left, right, factor=1.0):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, factor * b, rtol=1e-9, atol=1e-12)


PRIOR_FREE = [replace(p, rw=0.0, rl=0.0) for p in MODERATE]
UNIT_LENGTH = [replace(p, tw=1, tl=1) for p in MODERATE]
NO_KL = [replace(p, kl_w=0.0, kl_l=0.0) for p in MODERATE]
EQUAL_LENGTH = [replace(p, tw=4, tl=4) for p in MODERATE]

DPO = ("sigmoid", {"beta": 0.3})
IDENTITIES = [
    (DPO, ("f_dpo", {"beta": 0.3, "f_divergence_type": "reverse_kl"}), MODERATE, 1.0),
    (
        DPO,
        ("f_dpo", {"beta": 0.3, "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}),
        MODERATE,
        1.0,
    ),
    (DPO, ("robust", {"beta": 0.3, "label_smoothing": 0.0}), MODERATE, 1.0),
    (DPO, ("cdpo", {"beta": 0.3, "label_smoothing": 0.0}), MODERATE, 1.0),
    (DPO, ("r_dpo", {"beta": 0.3, "alpha": 0.0}), MODERATE, 1.0),
    (DPO, ("r_dpo", {"beta": 0.3, "alpha": 0.7}), EQUAL_LENGTH, 1.0),
    (DPO, ("dpop", {"beta": 0.3, "dpop_lambda": 0.0}), MODERATE, 1.0),
    (DPO, ("xpo", {"beta": 0.3, "alpha": 0.0}), MODERATE, 1.0),
    (DPO, ("tdpo1", {"beta": 0.3}), NO_KL, 1.0),
    (DPO, ("tdpo2", {"beta": 0.3}), NO_KL, 1.0),
    (DPO, ("sigmoid_norm", {"beta": 0.3}), UNIT_LENGTH, 1.0),
    (DPO, ("cpo", {"beta": 0.3, "cpo_alpha": 0.0}), PRIOR_FREE, 1.0),
    (("hinge", {"beta": 0.3}), ("cpo", {"beta": 0.3, "cpo_alpha": 0.0, "loss_type": "hinge"}), PRIOR_FREE, 1.0),
    (("ipo", {"beta": 0.3}), ("cpo", {"beta": 0.3, "cpo_alpha": 0.0, "loss_type": "ipo"}), PRIOR_FREE, 1.0),
    (("sigmoid_norm", {"beta": 0.3}), ("simpo", {"beta": 0.3, "simpo_gamma": 0.0}), PRIOR_FREE, 1.0),
    (("ipo", {}), ("ipo_sum", {}), UNIT_LENGTH, 1.0),
    (("gpo_squared", {"beta": 0.3}), ("ipo_sum", {"beta": 0.15}), MODERATE, 0.3**2),
    (("rpo_sq", {"beta": 0.3}), ("rebel", {"eta": 1 / 0.3}), MODERATE, 0.3**2),
    (("sppo_hard", {"beta": 0.3}), ("sppo", {"beta": 0.3}), [replace(p, win_w=1.0, win_l=0.0) for p in MODERATE], 2.0),
]


@pytest.mark.parametrize(("left", "right", "pairs", "factor"), IDENTITIES)
def test_identity(left, right, pairs, factor):
    same(run(left[0], pairs, **left[1]), run(right[0], pairs, **right[1]), factor)


def test_hard_label_pra_is_dpo():
    losses, a_w, _ = run("sigmoid", beta=0.7)
    for p, loss, a in zip(MODERATE, losses, a_w, strict=True):
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.7 * p.d)), rel=1e-9)
        assert a.item() == pytest.approx(-0.7 / (1 + math.exp(0.7 * p.d)), rel=1e-9)


def test_soft_pra_is_the_backward_kl_up_to_the_entropy_of_the_labels():
    losses, a_w, _ = run("pra", beta=0.7)
    for p, loss, a in zip(MODERATE, losses, a_w, strict=True):
        z, label = 0.7 * p.d, 1 / (1 + math.exp(p.reward_l - p.reward_w))
        cross = label * math.log(1 + math.exp(-z)) + (1 - label) * math.log(1 + math.exp(z))
        entropy = -label * math.log(label) - (1 - label) * math.log(1 - label)
        assert loss.item() == pytest.approx(cross - entropy, rel=1e-9, abs=1e-12)
        assert a.item() == pytest.approx(0.7 * (1 / (1 + math.exp(-z)) - label), rel=1e-9, abs=1e-12)


def test_alphapo_tends_to_simpo():
    for near, far in zip(
        run("alphapo", beta=2.5, simpo_gamma=0.1, alpha=1e-7), run("simpo", beta=2.5, simpo_gamma=0.1), strict=True
    ):
        torch.testing.assert_close(near, far, rtol=1e-5, atol=1e-7)


def as_groups(pairs, **data):
    """Each pair as a prompt with two responses, chosen ones first."""
    plain = batch_of(make("sigmoid"), pairs)
    return replace(plain, data={"groups": torch.arange(len(pairs)).repeat(2), **data})


def grouped(name, batch, **hyper):
    losses = make(name, **hyper).losses(batch)
    return [losses.detach(), *torch.autograd.grad(losses.sum(), batch.policy)[0].chunk(2)]


HARD = torch.tensor([1.0] * len(MODERATE) + [0.0] * len(MODERATE))


def test_two_responses_are_a_pair():
    ranked = as_groups(MODERATE, ranks=1 - HARD.long())
    same(grouped("plackett_luce", ranked, beta=0.3), run("sigmoid", beta=0.3))
    sure = as_groups(MODERATE, rewards=HARD)
    same(grouped("nca", sure, beta=0.3, alpha=1e-3), run("nca_pair", beta=0.3))
    same(grouped("infonca", sure, beta=0.3, alpha=1e-3), run("sigmoid", beta=0.3))
    rewards = batch_of(make("pra"), MODERATE).data["rewards"]
    found = grouped("infonca", as_groups(MODERATE, rewards=rewards), beta=0.3)
    same(found[1:], run("pra", beta=0.3)[1:])


def test_apo_zero_unpaired_is_kto_at_zero():
    hyper = {"beta": 0.3, "desirable_weight": 1.5}
    batch = labelled(mismatched_log_ratios=[-4.0, 1.0])
    assert torch.equal(make("kto", **hyper).losses(batch), make("apo_zero_unpaired", **hyper).losses(batch))
    paired = batch_of(make("apo_zero"), MODERATE)
    single = replace(paired, data={"desirable": HARD.bool()})
    chosen, rejected = make("apo_zero_unpaired").losses(single).chunk(2)
    torch.testing.assert_close(chosen + rejected, make("apo_zero").losses(paired))


def test_bco_without_its_shift_is_bco_pair():
    paired = batch_of(make("bco_pair"), MODERATE)
    still = {"reward_sum": torch.zeros((), dtype=torch.float64), "reward_count": torch.tensor(1)}
    chosen, rejected = make("bco").losses(replace(paired, data={"desirable": HARD.bool()}, state=still)).chunk(2)
    torch.testing.assert_close(chosen + rejected, make("bco_pair").losses(paired))


def test_reward_approximation_with_an_estimated_z_is_astar_po():
    tau, g = 0.7, torch.Generator().manual_seed(0)
    policy, reference, rewards, drawn = torch.randn(4, 6, dtype=torch.float64, generator=g)
    value = tau * (torch.logsumexp(drawn / tau, 0) - math.log(6))
    lengths = torch.ones(6, dtype=torch.int64)
    ra = SequenceBatch(policy, reference, lengths, {"rewards": rewards, "log_z": (value / tau).expand(6)})
    astar = replace(ra, data={"rewards": rewards, "values": value.expand(6)})
    torch.testing.assert_close(RA(beta=tau).losses(ra), AStarPO(beta2=tau).losses(astar), rtol=1e-12, atol=0)
