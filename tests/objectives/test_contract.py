"""What every registered objective must keep: its declared traits are checked against its behaviour."""

import dataclasses
import inspect
import math

import pytest
import torch

import fastpref
from fastpref.objectives import OBJECTIVES, GroupObjective, Mixture, PairwiseObjective
from tests import family

NAMES = sorted(OBJECTIVES)


def detaches(o) -> bool:
    """Whether the value is not what is differentiated, or may not be at a policy that is its own behaviour policy."""
    return o.traits.surrogate or o.traits.stateful or (o.traits.level == "token" and "old_logps" not in o.traits.data)


def over_vocabulary(o) -> bool:
    return bool({"forward_kl", "reverse_kl"} & set(o.traits.vocabulary))


def by_sequence_sums(o) -> bool:
    return not (o.traits.level == "token" or o.traits.vocabulary or getattr(o, "ld_alpha", None) is not None)


def square_above_float32(o) -> bool:
    """e^80, which is where the exponent is clamped, squared."""
    return o.name == "ipo" and o.f_divergence_type == "alpha_divergence"


def gradient(call: family.TokenCall, **options) -> torch.Tensor:
    (g,) = torch.autograd.grad(call.run(**options).loss, call.policy, allow_unused=True)
    return torch.zeros_like(call.policy) if g is None else g


def units(objective, call) -> list[list[int]]:
    """The sequences of each smallest set that the objective says it couples."""
    sequences = call.cu_seqlens.shape[0] - 1
    coupling = objective.traits.coupling
    if coupling == "sequence":
        return [[k] for k in range(sequences)]
    if coupling == "pair":
        return [[i, sequences // 2 + i] for i in range(sequences // 2)]
    ids = call.data["groups"].tolist()
    return [[k for k in range(sequences) if ids[k] == i] for i in dict.fromkeys(ids)]


def sequences_of(call) -> torch.Tensor:
    counts = call.cu_seqlens.long().diff()
    return torch.repeat_interleave(torch.arange(counts.shape[0]), counts)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_frozen_value(name):
    objective = family.make(name)
    assert objective == family.make(name)
    field = dataclasses.fields(objective)[0].name if dataclasses.fields(objective) else "beta"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(objective, field, 3.0)
    doc = inspect.getdoc(type(objective))
    for f in dataclasses.fields(objective):
        assert any(f"{f.name}" in (inspect.getdoc(c) or "") for c in type(objective).__mro__), (
            f"{f.name}: not documented"
        )
    assert doc


@pytest.mark.parametrize("name", NAMES)
def test_traits_are_complete(name):
    traits = family.make(name).traits
    assert traits.target
    assert traits.formula
    assert traits.derivative
    assert traits.paper
    assert OBJECTIVES[name].cls.traits.paper == traits.paper


@family.each(lambda o: not detaches(o))
def test_declared_surrogate_or_the_true_derivative(objective):
    """Where the value is what is differentiated, central differences agree."""
    call = family.token_call(objective)
    inputs = [call.policy] if call.kl is None else [call.policy, call.kl]
    assert torch.autograd.gradcheck(lambda *x: call.run(*x).loss, inputs, atol=1e-7)


@family.each(lambda o: o.traits.coupling == "pair" and not o.traits.vocabulary)
def test_declared_margin_only(objective):
    """Equal and opposite derivatives, that depend on the margin alone: a common shift of a pair's policy changes nothing."""
    call = family.token_call(objective, optional=False)
    starts = call.cu_seqlens[:-1].long()
    chosen, rejected = gradient(call)[starts].chunk(2)  # every token of a sequence has the same
    opposite = torch.allclose(chosen, -rejected, rtol=1e-10, atol=1e-14)
    shift = torch.zeros_like(call.policy).index_fill(0, starts, -0.25)
    shifted = call.run(call.policy + shift).losses
    assert (opposite and torch.allclose(shifted, call.run().losses, rtol=1e-10)) is objective.traits.margin_only


@family.each()
def test_declared_coupling(objective):
    """The gradient of a unit does not depend on the others' log-probs; and it does on those of its own."""
    if objective.traits.coupling == "batch":
        call = family.token_call(objective)
        moved = call.policy.detach().clone()
        moved[-4:] -= 1.0
        start = gradient(call)
        later = gradient(dataclasses.replace(call, policy=moved.requires_grad_()))
        assert not torch.equal(start[:-4], later[:-4]), "separates, and could be declared so"
        return
    call = family.token_call(objective)
    start, rows = gradient(call), sequences_of(call)
    for unit in units(objective, call):
        mine = torch.isin(rows, torch.tensor(unit))
        moved = torch.where(mine, call.policy.detach(), call.policy.detach() - 1.0)
        later = gradient(dataclasses.replace(call, policy=moved.requires_grad_()))
        torch.testing.assert_close(later[mine], start[mine], rtol=1e-10, atol=1e-13)


@family.each(lambda o: o.traits.coupling in ("pair", "group"))
def test_declared_coupling_is_the_smallest(objective):
    """Sequences that are declared coupled are: some sequence's gradient moves with another of its unit."""
    separable = {
        *("bco_pair", "nca_pair", "apo_zero", "sppo_hard", "sppo", "sft"),  # sums of a term of each
        *("group_regression", "nca"),  # coupled by their rewards, not by their log-probs
        *("hinge", "slic_hf", "gpo_truncated_squared"),  # constant derivatives
    }
    call = family.token_call(objective)
    start, rows = gradient(call), sequences_of(call)
    moved = call.policy.detach().clone()
    moved[rows >= 4] -= 0.7
    moved[rows % 2 == 1] -= 0.4
    later = gradient(dataclasses.replace(call, policy=moved.requires_grad_()))
    still = (rows < 4) & (rows % 2 == 0)
    changed = not torch.allclose(later[still], start[still], rtol=1e-9, atol=0)
    assert changed or objective.name in separable, "couples less than it declares"


@family.each(lambda o: not over_vocabulary(o))
def test_declared_reference(objective):
    call = family.token_call(objective)
    without = dataclasses.replace(call, reference=None)
    given = call.policy.detach() + torch.linspace(-1, 1, call.policy.shape[0])
    if objective.traits.reference == "required":
        with pytest.raises(ValueError, match="needs a reference"):
            without.run()
    elif objective.traits.reference == "none":
        with pytest.raises(ValueError, match="takes no reference"):
            dataclasses.replace(call, reference=given).run()
    else:
        assert not torch.allclose(without.run().losses, call.run().losses)


@family.each(by_sequence_sums)
def test_declared_use_of_lengths(objective):
    """Token means and lengths are what is declared: appending tokens of log-probability 0 changes nothing else."""
    call = family.token_call(objective, optional=False)
    sums = torch.zeros(8, dtype=torch.float64).index_add_(0, sequences_of(call), call.policy.detach())
    near = None
    if call.reference is not None:
        near = torch.zeros(8, dtype=torch.float64).index_add_(0, sequences_of(call), call.reference)
    data = dict(call.data)
    if "old_logps" in data:
        data["old_logps"] = sums - 0.1
    lengths = torch.tensor(family.LENGTHS)
    runs = [
        fastpref.preference_loss(objective, sums, near, lengths=n, **data).losses
        for n in (lengths, lengths + torch.tensor([7, 3, 1, 2, 9, 4, 5, 6]))
    ]
    assert torch.equal(*runs) is not objective.traits.needs_lengths


@family.each()
def test_declared_state(objective):
    assert bool(objective.initial_state()) is objective.traits.stateful
    call = family.token_call(objective)
    before = {k: v.clone() for k, v in objective.initial_state().items()}
    out = call.run(state=before)
    assert set(out.state) == set(before)
    again = call.run(state=before)
    assert torch.equal(out.loss, again.loss), "a call is a function of its arguments and the state"


@family.each()
def test_needed_data_is_needed_and_nothing_else_is_taken(objective):
    call = family.token_call(objective)
    for name in objective.traits.data:
        if name == "lengths":
            continue
        missing = {k: v for k, v in call.data.items() if k != name}
        with pytest.raises(TypeError, match=f"missing argument '{name}'"):
            dataclasses.replace(call, data=missing).run()
    with pytest.raises(TypeError, match="unknown argument 'wards'"):
        call.run(wards=torch.zeros(8))


@family.each(lambda o: not square_above_float32(o))
def test_extreme_inputs_are_finite(objective):
    """Log-probs down to -1e5, log-ratios of +-1e4, completions of one token, in float32."""
    for lengths in ([1] * 8, family.LENGTHS):
        call = family.token_call(objective, lengths)
        rows = call.policy.shape[0]
        scale = torch.tensor([1e5, 1.0, 1e4, 3.0, 1e2, 1e5, 1e-3, 1e4]).repeat(-(-rows // 8))[:rows]
        policy = (-scale).requires_grad_()
        flip = torch.where(torch.arange(rows) % 3 == 0, 1e4, -1e4)
        call = dataclasses.replace(
            call,
            policy=policy,
            reference=None if call.reference is None else torch.minimum(policy.detach() + flip, torch.tensor(-1e-6)),
            kl=None if call.kl is None else call.kl.detach().float().requires_grad_(),
        )
        out = call.run()
        out.loss.backward()
        assert out.losses.isfinite().all()
        assert out.loss.isfinite()
        assert policy.grad.isfinite().all()


@family.each(lambda o: o.traits.reference != "none" and isinstance(o, PairwiseObjective))
def test_margins_are_zero_where_policy_is_the_reference(objective):
    call = family.token_call(objective)
    out = dataclasses.replace(call, reference=call.policy.detach()).run()
    assert out.metrics["rewards/margins"].item() == 0.0


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm", "robust", "exo_pair", "hinge"])
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
def test_every_score_is_zero_at_the_reference(name, divergence):
    """Also where scores are divided by different lengths: the loss at policy = reference does not depend on the divergence."""
    call = family.token_call(family.make(name, f_divergence_type=divergence))
    out = dataclasses.replace(call, reference=call.policy.detach()).run()
    wanted = dataclasses.replace(call, objective=family.make(name), reference=call.policy.detach()).run()
    assert torch.equal(out.losses, wanted.losses)
    if name.startswith("sigmoid"):
        assert torch.equal(out.losses, torch.full((4,), math.log(2), dtype=torch.float64))


def test_a_hyper_parameter_may_be_called_loss_type():
    assert fastpref.objective("cpo", loss_type="hinge").loss_type == "hinge"
    logps = torch.tensor([-3.0, -4.0])
    out = fastpref.preference_loss("cpo", logps, lengths=torch.tensor([2, 3]), loss_type="hinge", cpo_alpha=0.0)
    assert out.loss.item() == pytest.approx(0.9)


def test_names():
    assert fastpref.objective("sigmoid", beta=0.3).beta == 0.3
    assert fastpref.objective("wpo").use_weighting
    assert fastpref.objective("ld_dpo").ld_alpha == 0.5
    assert fastpref.objective("dpo") == fastpref.objective("sigmoid")
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        fastpref.objective("sigmod")
    with pytest.raises(TypeError, match="did you mean 'beta'"):
        fastpref.objective("sigmoid", betta=0.3)
    with pytest.raises(TypeError, match="name"):
        fastpref.objective(3)
    assert isinstance(fastpref.objective(["sigmoid", "sft"]), Mixture)
    assert issubclass(OBJECTIVES["nca"].cls, GroupObjective)


def test_unknown_data_in_traits_is_refused():
    traits = OBJECTIVES["kto"].cls.traits
    with pytest.raises(ValueError, match="unknown data 'rewardz'"):
        dataclasses.replace(traits, data=("rewardz",))
