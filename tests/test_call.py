"""From log-probs and data to an objective's batch: masks, weights, state, and what is refused."""

import pytest
import torch

import fastpref
from fastpref.objectives import SequenceBatch
from tests import family

LENGTHS = torch.tensor(family.LENGTHS)


def by_sequence(values: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.sum() for part in values.split(family.LENGTHS)])


def test_tokens_and_their_sums_are_the_same_call():
    call = family.token_call(fastpref.objective("ipo"))
    tokens = call.run()
    sums = fastpref.preference_loss("ipo", by_sequence(call.policy), by_sequence(call.reference), lengths=LENGTHS)
    torch.testing.assert_close(tokens.loss, sums.loss, rtol=1e-13, atol=0)
    mixed = fastpref.preference_loss("ipo", call.policy, by_sequence(call.reference), cu_seqlens=call.cu_seqlens)
    torch.testing.assert_close(mixed.loss, sums.loss, rtol=1e-13, atol=0)


def test_masked_rows_count_for_nothing_whatever_they_hold():
    call = family.token_call(fastpref.objective("ipo"))
    mask = torch.ones(sum(family.LENGTHS), dtype=torch.bool)
    mask[[1, 6, 7]] = False
    clean = fastpref.preference_loss(
        "ipo",
        by_sequence(call.policy.detach() * mask),
        by_sequence(call.reference * mask),
        lengths=by_sequence(mask.double()).long(),
    )
    policy = call.policy.detach().masked_fill(~mask, torch.nan).requires_grad_()
    reference = call.reference.masked_fill(~mask, torch.inf)
    out = fastpref.preference_loss("ipo", policy, reference, cu_seqlens=call.cu_seqlens, mask=mask)
    torch.testing.assert_close(out.loss, clean.loss, rtol=1e-13, atol=0)
    out.loss.backward()
    assert torch.equal(policy.grad[~mask], torch.zeros(3, dtype=torch.float64))
    assert (policy.grad[mask] != 0).all()


@pytest.mark.parametrize("plan", ["D0", "D1"])
def test_token_weights_enter_both_sums(plan):
    call = family.linear_call(fastpref.objective("sigmoid"))
    weights = torch.linspace(0.2, 2.0, sum(family.LENGTHS), dtype=torch.float64)
    weights[call.targets < 0] = torch.nan  # ignored rows
    out = call.fused(plan=plan, token_weights=weights)
    policy = fastpref.linear_logprobs(call.hidden, call.weight, call.targets, bias=call.bias).logps
    near = fastpref.linear_logprobs(*call.reference[:2], call.targets, bias=call.reference[2]).logps
    w = weights.nan_to_num(0.0)
    wanted = fastpref.preference_loss("sigmoid", by_sequence(w * policy), by_sequence(w * near))
    torch.testing.assert_close(out.loss, wanted.loss, rtol=1e-12, atol=0)
    out.loss.backward()
    found = call.hidden.grad.clone()
    call.hidden.grad = None
    wanted.loss.backward()
    torch.testing.assert_close(found, call.hidden.grad, rtol=1e-10, atol=1e-13)


def test_ld_alpha_weights_the_tail_of_the_longer_completion():
    objective = fastpref.objective("sigmoid", ld_alpha=0.25)
    weights = objective.token_weights(
        torch.tensor([3, 1, 2, 4]),
        torch.tensor([0, 1, 2, 0, 0, 1, 0, 1, 2, 3]),
        torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3]),
    )
    assert weights.tolist() == [1, 1, 0.25, 1, 1, 1, 1, 0.25, 0.25, 0.25]


def test_positions_skip_ignored_rows():
    """Of a chosen completion of 4 rows, one ignored, and a rejected one of 2: only its third active row is the tail."""
    policy = torch.tensor([-1.0, -2.0, -4.0, -8.0, -1.0, -1.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, True, True])
    out = fastpref.preference_loss(
        "sigmoid", policy, cu_seqlens=torch.tensor([0, 4, 6], dtype=torch.int32), mask=mask, ld_alpha=0.5
    )
    assert out.logps.tolist() == [-1.0 - 4.0 - 0.5 * 8.0, -2.0]


def test_state_goes_from_call_to_call():
    bco = fastpref.objective("bco")
    call = family.token_call(bco)
    state, rewards = None, 0.1 * by_sequence(call.policy.detach() - call.reference)
    for n in (1, 2, 3):
        out = call.run(state=state)
        state = out.state
        assert state["reward_count"].item() == 8 * n
        torch.testing.assert_close(state["reward_sum"], n * rewards.sum())


def test_the_module_carries_the_state_in_training_only():
    call = family.linear_call(fastpref.objective("bco"))
    module = fastpref.nn.LinearPreferenceLoss("bco")

    def run():
        return module(
            call.hidden,
            call.weight,
            call.targets,
            call.cu_seqlens,
            bias=call.bias,
            reference=call.reference,
            **call.data,
        )

    run()
    saved = module.state_dict()
    module.eval()
    run()
    assert module.state["reward_count"].item() == 8
    module.train()
    expected = run().loss.item()
    other = fastpref.nn.LinearPreferenceLoss("bco")
    other.load_state_dict(saved)
    module.load_state_dict(saved)
    assert run().loss.item() == expected
    assert other.state["reward_count"].item() == 8


def test_terms_over_the_vocabulary_come_with_the_log_probs():
    """The public functions hand preference_loss what WPO and TDPO need; both equal the one call from hidden states."""
    call = family.linear_call(fastpref.objective("wpo"))
    policy = fastpref.linear_logprobs(
        call.hidden, call.weight, call.targets, bias=call.bias, stats=("log_sum_sq_probs",)
    )
    near = fastpref.linear_logprobs(*call.reference[:2], call.targets, bias=call.reference[2])
    mask = call.targets >= 0
    out = fastpref.preference_loss("wpo", policy, near, cu_seqlens=call.cu_seqlens, mask=mask)
    torch.testing.assert_close(out.loss, call.fused().loss)
    call = family.linear_call(fastpref.objective("tdpo2"))
    both = fastpref.linear_token_kl(
        call.hidden, call.weight, call.targets, reference=call.reference, bias=call.bias, direction="forward"
    )
    out = fastpref.preference_loss("tdpo2", both, cu_seqlens=call.cu_seqlens, mask=mask)
    torch.testing.assert_close(out.loss, call.fused().loss)


def test_a_part_of_a_call_knows_the_call():
    batch = SequenceBatch(
        torch.zeros(4), None, torch.tensor([1, 2, 3, 4]), {"rewards": torch.arange(4.0), "sft_logps": torch.arange(2.0)}
    )
    chosen, rejected = batch.halves()
    assert chosen.lengths.tolist() == [1, 2]
    assert rejected.data["rewards"].tolist() == [2.0, 3.0]
    assert rejected.data["sft_logps"].tolist() == [0.0, 1.0]
    assert chosen.call.lengths.tolist() == [1, 2, 3, 4]
    assert chosen.call_number("mean_chosen_length").item() == 1.5


@pytest.mark.parametrize("name", ["nll", "sft", "dapo", "bnpo", "ppo", "cpo", "orpo", "simpo"])
@pytest.mark.parametrize("plan", [None, "D0", "D1"])
def test_a_sequence_whose_rows_are_all_ignored_counts_no_token(name, plan):
    """Masked rollouts (DAPO's truncated ones) weigh nothing in token means; a made-up length of 1 would."""
    objective = family.make(name, **({"cpo_alpha": 1.0} if name == "simpo" else {}))
    call = family.linear_call(objective)
    call.data.pop("num_items_in_batch", None)
    call.targets[: family.LENGTHS[0]] = -100
    rows = (call.targets >= 0).double()
    total, chosen = rows.sum(), rows[: sum(family.LENGTHS[:4])].sum()
    out = call.plain() if plan is None else call.fused(plan=plan)
    assert out.loss.isfinite()
    if name == "nll":
        torch.testing.assert_close(out.loss, -out.logps.sum() / total)
    if name == "sft":
        torch.testing.assert_close(out.loss, -out.logps[:4].sum() / chosen)
    if name in ("cpo", "orpo", "simpo"):
        torch.testing.assert_close(out.metrics["nll_loss"], -out.logps[:4].sum() / chosen)
    if name in ("dapo", "bnpo"):
        alone = fastpref.preference_loss(
            objective,
            fastpref.linear_logprobs(call.hidden, call.weight, call.targets, bias=call.bias).logps[3:],
            cu_seqlens=call.cu_seqlens[1:] - 3,
            mask=call.targets[3:] >= 0,
            **{k: v[3:] for k, v in call.data.items() if v.dim() == 1},
        )
        torch.testing.assert_close(out.loss, alone.loss)


def test_data_get_no_gradient_unless_they_are_learnt():
    rewards = torch.tensor([1.0, 0.5], requires_grad=True)
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    fastpref.preference_loss("rpo_sq", policy, rewards=rewards).loss.backward()
    assert rewards.grad is None
    values = torch.tensor([0.1, 0.2], requires_grad=True)
    fastpref.preference_loss("dro_v", policy, rewards=rewards, values=values).loss.backward()
    assert values.grad.abs().min() > 0


def test_a_scalar_may_be_a_number():
    given = dict(cu_seqlens=torch.tensor([0, 2, 4], dtype=torch.int32))
    a, b = (fastpref.preference_loss("nll", torch.ones(4), num_items_in_batch=n, **given) for n in (8, torch.tensor(8)))
    assert a.loss == b.loss


def test_shapes_without_values_need_none():
    out = fastpref.preference_loss("sigmoid", torch.zeros(4, device="meta"), torch.zeros(4, device="meta"))
    assert out.loss.shape == ()


K2 = torch.tensor([-1.0, -2.0])
T4, CU = torch.arange(-4.0, 0.0), torch.tensor([0, 2, 4], dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("ipo", K2), {}, ValueError, ["ipo", "lengths"]),
        (("grpo", K2), {"advantages": K2}, ValueError, ["grpo", "policy [T] with cu_seqlens"]),
        (("wpo", K2, K2), {}, ValueError, ["log_sum_sq_probs"]),
        (("wpo", T4, T4), {"cu_seqlens": CU}, ValueError, ["stats=('log_sum_sq_probs',)"]),
        (("tdpo1", T4, T4), {"cu_seqlens": CU}, ValueError, ["linear_token_kl"]),
        (("ld_dpo", K2), {"lengths": torch.tensor([2, 1])}, ValueError, ["weights tokens"]),
        (("ld_dpo", T4, K2), {"cu_seqlens": CU}, ValueError, ["token weights apply", "[4]"]),
        (("grpo", T4, K2), {"cu_seqlens": CU, "advantages": K2, "beta": 0.1}, ValueError, ["works on tokens", "[4]"]),
        (("sigmoid", T4), {"cu_seqlens": CU, "lengths": torch.tensor([2, 2])}, ValueError, ["lengths", "cu_seqlens"]),
        (("sigmoid", K2), {"mask": K2 > 0}, ValueError, ["mask", "cu_seqlens"]),
        (("sigmoid", T4), {"cu_seqlens": CU, "mask": T4}, TypeError, ["mask", "torch.bool"]),
        (("sigmoid", T4), {"cu_seqlens": CU, "token_weights": K2}, ValueError, ["token_weights", "[4]", "[2]"]),
        (("grpo", T4), {"cu_seqlens": CU, "advantages": K2, "token_weights": T4}, ValueError, ["token_weights", "grpo"]),
        (("rloo", T4), {"cu_seqlens": CU, "advantages": K2, "old_logps": T4, "token_weights": T4}, ValueError, ["old_logps"]),
        (("rpo_sq", K2), {"rewards": torch.zeros(3)}, ValueError, ["rewards", "[2]", "[3]"]),
        (("rpo_sq", K2), {"rewards": torch.tensor([0.0, torch.nan])}, ValueError, ["rewards", "finite", "position 1"]),
        (("rpo_sq", K2), {"rewards": [0.0, 1.0]}, TypeError, ["rewards", "torch.Tensor", "list"]),
        (("kto", K2, K2), {"desirable": K2, "mismatched_log_ratios": K2}, TypeError, ["desirable", "torch.bool"]),
        (("plackett_luce", K2), {"groups": K2, "ranks": K2}, TypeError, ["groups", "integer"]),
        (("bco", K2, K2), {"desirable": K2 < 0, "state": {}}, ValueError, ["state", "reward_count"]),
        (("sigmoid", K2), {"state": {"x": K2}}, ValueError, ["state", "nothing"]),
        (("simpo", K2), {"lengths": torch.tensor([0, 3])}, ValueError, ["lengths", "1 or above", "found 0"]),
        (("simpo", K2), {"lengths": torch.tensor([1.5, 3])}, TypeError, ["lengths", "integer"]),
        (("sigmoid", K2 * torch.nan), {}, ValueError, ["policy", "sequence 0", "NaN"]),
        (("sigmoid", T4 * torch.nan), {"cu_seqlens": CU}, ValueError, ["policy", "row 0", "NaN"]),
        (("sigmoid", T4), {"cu_seqlens": CU, "token_weights": T4 / 0}, ValueError, ["token_weights", "finite", "row 0"]),
        (("sppo", K2, K2), {"win_probs": torch.tensor([1.5, 0.0])}, ValueError, ["win_probs", "[0.0, 1.0]", "1.5"]),
        (("nll", T4), {"cu_seqlens": CU, "num_items_in_batch": -6}, ValueError, ["num_items_in_batch", "1 or above", "-6"]),
        (("bco", K2, K2), {"desirable": K2 < 0, "state": {"reward_sum": torch.tensor(torch.nan), "reward_count": torch.tensor(1)}},
         ValueError, ["reward_sum", "finite"]),
        (("nca", K2, K2), {"groups": torch.tensor([0, 0])}, TypeError, ["missing argument 'rewards'"]),
        (("sigmoid", K2), {"rewards": K2}, TypeError, ["unknown argument 'rewards'", "beta"]),
    ],
)  # fmt: skip
def test_what_is_refused_names_argument_found_and_expected(arguments, options, error, words):
    with pytest.raises(error) as raised:
        fastpref.preference_loss(*arguments, **options)
    for word in words:
        assert word in str(raised.value)


def test_a_reference_of_sums_is_refused_where_distributions_are_needed():
    call = family.linear_call(fastpref.objective("tdpo1"))
    with pytest.raises(ValueError, match=r"tdpo1 needs the distribution over the vocabulary"):
        fastpref.linear_preference_loss(
            "tdpo1", call.hidden, call.weight, call.targets, call.cu_seqlens, reference=torch.zeros(8)
        )
