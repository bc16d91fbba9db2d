"""The objectives that the trainer runs: options, data from pairs, state across an interruption."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fastpref
from fastpref import UserError
from fastpref.train import TrainConfig, train
from fastpref.train.objective import data_from_pairs, losses_per_pair, objective_of, parse_options


def options(**given) -> TrainConfig:
    return TrainConfig("m", "d", "o", **given)


def test_options_to_objectives():
    assert objective_of(options()) == fastpref.objective("sigmoid")
    assert objective_of(options(loss="simpo", beta=2.0, loss_options="simpo_gamma=1")) == fastpref.objective(
        "simpo", beta=2.0, simpo_gamma=1
    )
    assert objective_of(
        options(loss="sigmoid, sft", loss_weights="1.0,0.005", loss_options="ld_alpha=0.5")
    ) == fastpref.objective(["sigmoid", "sft"], loss_weights=[1.0, 0.005], ld_alpha=0.5)
    assert objective_of(options(loss="una_binary")).beta == 0.01, "the loss's own default"


def test_option_values():
    assert parse_options("a=1, b=0.5,c=true,d=none,e=js_divergence") == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "js_divergence",
    }
    assert parse_options(None) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": "sigmod"}, ["sigmod", "did you mean 'sigmoid'"]),
        ({"loss": "grpo"}, ["advantages", "preference pairs do not have"]),
        ({"loss": "kto"}, ["mismatched_log_ratios"]),
        ({"loss": "nll"}, ["rejected", "sft"]),
        ({"loss": "tdpo1"}, ["reference=precomputed", "reference=online"]),
        ({"loss": "apo_zero", "reference": "none"}, ["reference=none"]),
        ({"loss_weights": "1,2"}, ["loss_weights", "several"]),
        ({"loss": "sigmoid,sft", "loss_weights": "1,x"}, ["loss_weights", "numbers"]),
        ({"loss": "sigmoid,sft", "loss_weights": "1"}, ["loss_weights", "one per loss"]),
        ({"loss_options": "beta2=1"}, ["beta2", "did you mean 'beta'"]),
        ({"loss_options": "ld_alpha"}, ["loss_options", "name=value", "ld_alpha"]),
        ({"loss_options": "a=1,a=2"}, ["twice"]),
        ({"beta": -1.0}, ["beta", "-1.0"]),
    ],
)
def test_what_is_refused_says_why(given, words):
    with pytest.raises(UserError) as raised:
        objective_of(options(**given))
    for word in words:
        assert word in str(raised.value)


def test_data_and_losses_of_pairs():
    device = torch.device("cpu")
    assert data_from_pairs(fastpref.objective("sigmoid"), 2, device) == {}
    assert data_from_pairs(fastpref.objective("bco"), 2, device)["desirable"].tolist() == [True, True, False, False]
    assert losses_per_pair(torch.tensor([1.0, 2.0]), 2).tolist() == [1.0, 2.0]
    assert losses_per_pair(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2).tolist() == [4.0, 6.0]
    assert losses_per_pair(torch.tensor([5.0]), 2).tolist() == [5.0, 5.0]


def log_of(config, key="loss"):
    lines = (json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines())
    return [record[key] for record in lines if key in record]


@pytest.mark.parametrize("given", [{"loss": "bco"}, {"loss": "beta_dpo"}, {"loss": "sigmoid,bco_pair,sft"}])
def test_training_lowers_the_loss_and_continues_bit_for_bit(config, given):
    whole = dataclasses.replace(config, schedule="constant", warmup=0, lr=3e-4, max_steps=4, batch_size=4, **given)
    result = train(whole)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    halves = dataclasses.replace(whole, output=f"{config.output}-halves", save_every=2)
    train(dataclasses.replace(halves, max_steps=2))
    train(halves)
    assert log_of(halves) == log_of(whole)
    a, b = (load_file(Path(c.output) / "checkpoint-000004" / "model.safetensors") for c in (whole, halves))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_state_is_in_the_checkpoint_and_needed(config):
    bco = dataclasses.replace(config, loss="bco", max_steps=2, save_every=1, schedule="constant", warmup=0)
    train(bco)
    saved = Path(config.output) / "checkpoint-000002" / "objective.safetensors"
    state = load_file(saved)
    assert state["reward_count"].item() == 2 * 4 * 2, "two steps of four pairs"
    saved.unlink()
    with pytest.raises(UserError, match=r"cannot be continued.*objective\.safetensors"):
        train(dataclasses.replace(bco, max_steps=3))


def test_an_evaluation_leaves_the_state_alone(config, pairs_file):
    bco = dataclasses.replace(config, loss="bco", max_steps=2, schedule="constant", warmup=0)
    plain = train(bco)
    held_out = dataclasses.replace(bco, output=f"{config.output}-eval", eval_data=str(pairs_file), eval_every=1)
    evaluated = train(held_out)
    assert evaluated.policy.objective_state == plain.policy.objective_state
    assert log_of(held_out) == log_of(bco)


def test_a_loss_over_the_vocabulary_with_an_online_reference(config, pairs_file):
    tdpo = dataclasses.replace(
        config, loss="tdpo2", reference="online", max_steps=2, eval_data=str(pairs_file), schedule="constant", warmup=0
    )
    result = train(tdpo)
    assert result.history[0]["eval_loss"] == pytest.approx(0.6931471824645996, abs=1e-6)
    assert log_of(tdpo)[-1] < log_of(tdpo)[0]


def test_a_loss_without_a_reference_ignores_the_option(config):
    simpo = dataclasses.replace(config, loss="simpo", max_steps=2)
    assert train(simpo).step == 2
