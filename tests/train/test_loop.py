import copy
import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastpref import UserError
from fastpref.train import train
from fastpref.train.data import pairs_from_memory
from fastpref.train.model import load_causal_lm
from fastpref.train.reference import PrecomputedReference
from fastpref.train.tokenization import tokenize
from tests.oracle import GRADIENT_FACTOR, LOSS_FACTOR, assert_precise

from .conftest import make_pairs
from .plain_dpo import first_step


def lines(config):
    return [json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]


def weights(result):
    return load_file(result.checkpoint / "model.safetensors")


def test_learns_and_reports(config, pairs_file):
    config = dataclasses.replace(config, eval_data=str(pairs_file), eval_every=3, max_steps=None, epochs=2)
    seen = []
    result = train(config, callbacks=[lambda record, policy: seen.append(record)])
    assert (result.step, result.total_steps, result.interrupted) == (6, 6, None)
    assert result.history == lines(config) == seen
    steps = [r for r in result.history if "loss" in r]
    evaluations = [r for r in result.history if "eval_loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in evaluations] == [0, 3, 6]
    assert evaluations[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert evaluations[-1]["eval_loss"] < 0.3
    assert evaluations[-1]["eval_rewards/accuracies"] == 1.0
    assert steps[-1]["epoch"] == 2.0
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "lr", "grad_norm"} <= set(
        steps[0]
    )


@pytest.mark.parametrize("stop_after", [3, 6])
def test_an_evaluation_that_was_interrupted_is_made_up_for(config, pairs_file, tmp_path, stop_after):
    config = dataclasses.replace(config, eval_data=str(pairs_file), eval_every=3)
    whole = train(dataclasses.replace(config, output=str(tmp_path / "whole")))

    def interrupt(record, policy):
        if record["step"] == stop_after and "loss" in record:
            os.kill(os.getpid(), signal.SIGTERM)  # noticed within the evaluation that follows

    stopped = train(config, callbacks=[interrupt])
    assert stopped.interrupted == signal.SIGTERM
    assert stopped.history[-1]["step"] == stop_after
    assert "loss" in stopped.history[-1]
    resumed = train(config)
    timeless = [[{k: v for k, v in r.items() if "seconds" not in k} for r in run.history] for run in (resumed, whole)]
    assert timeless[0] == timeless[1]


def test_checkpoint_is_a_model_that_transformers_loads(config, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = train(dataclasses.replace(config, max_steps=1))
    loaded = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, result.policy.causal_lm.state_dict()[name]), name
    again = AutoTokenizer.from_pretrained(result.checkpoint)
    assert again("hello</s>")["input_ids"] == tokenizer("hello</s>")["input_ids"]
    assert again.chat_template == tokenizer.chat_template


def test_one_step_equals_plain_torch(config, model_dir, tokenizer):
    """Data to updated weights, against a step written out in the test; the reference is another model than the policy's
    start."""
    records = make_pairs(4)
    config = dataclasses.replace(
        config, max_steps=1, batch_size=4, gradient_accumulation=1, warmup=0, max_grad_norm=0.5
    )
    result = train(config, train_pairs=records)
    data, _ = tokenize(pairs_from_memory(records, "memory"), tokenizer, max_length=1024, prompt_room=512)
    triples = [tuple(part.tolist() for part in data[i]) for i in range(4)]
    start = load_causal_lm(model_dir, device=torch.device("cpu"))
    oracle, plain = (
        first_step(start, start, triples, beta=0.1, lr=config.lr, max_norm=0.5, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    (record,) = result.history
    assert_precise(torch.tensor(record["loss"]), oracle["loss"], plain["loss"], LOSS_FACTOR, what="loss")
    assert_precise(torch.tensor(record["grad_norm"]), oracle["norm"], plain["norm"], GRADIENT_FACTOR, what="norm")
    for name, value in weights(result).items():
        # Adam's first step divides the gradient by its own size, and rounds differently where that is near eps: whole
        # tensors are compared, and a lone such element is let pass.
        exact = oracle["after"][name]
        ours, theirs = (value.double() - exact).norm(), (plain["after"][name].double() - exact).norm()
        assert ours <= GRADIENT_FACTOR * theirs + 3e-6 * exact.norm(), (name, ours, theirs)
        assert (value - start.state_dict()[name]).norm() > 0


@pytest.mark.parametrize("layout", [(1, 6), (2, 3), (4, 2)])
def test_accumulation_equals_one_big_batch(config, layout):
    """Also with a last micro-batch that is smaller than the others (6 pairs as 4 + 2)."""
    records = make_pairs(6)

    def gradient_norms(name, batch_size, accumulation):
        options = {"batch_size": batch_size, "gradient_accumulation": accumulation, "max_steps": 1, "lr": 1e-3}
        options |= {"output": config.output + name, "warmup": 0, "reference": "none"}
        result = train(dataclasses.replace(config, **options), train_pairs=records)
        return result.history[0], weights(result)

    big, expected = gradient_norms("big", 6, 1)
    small, found = gradient_norms("small", *layout)
    assert small["pairs"] == 6
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "rewards/accuracies"):
        assert small[name] == pytest.approx(big[name], rel=1e-5, abs=1e-6), name
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-4 * 1e-3 * value.numel() ** 0.5, name


def test_the_three_references(config):
    """Precomputed and online agree; without one the loss is that of the bare log-probabilities."""
    first = {}
    for reference in ("precomputed", "online", "none"):
        options = {"reference": reference, "output": config.output + reference, "max_steps": 2}
        first[reference] = train(dataclasses.replace(config, **options)).history
    for a, b in zip(first["precomputed"], first["online"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["logps/chosen"] == pytest.approx(b["logps/chosen"], rel=1e-5)
    assert first["online"][0]["rewards/margins"] == 0.0
    bare = first["none"][0]
    assert bare["rewards/margins"] == pytest.approx(0.1 * (bare["logps/chosen"] - bare["logps/rejected"]), rel=1e-6)


def test_gradient_checkpointing_changes_nothing(config):
    options = {"max_steps": 2}
    expected = weights(train(dataclasses.replace(config, **options)))
    options |= {"gradient_checkpointing": True, "output": config.output + "-recompute"}
    found = weights(train(dataclasses.replace(config, **options)))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_max_steps_runs_over_epochs_and_schedule_reaches_its_end(config):
    result = train(dataclasses.replace(config, max_steps=7, schedule="cosine", warmup=2, log_every=3))
    assert [r["step"] for r in result.history] == [3, 6, 7]
    assert result.history[-1]["lr"] < 0.15 * config.lr


def test_nan_weights_stop_the_run_and_leave_the_last_checkpoint(config, pairs_file):
    def break_it(record, policy):
        if record["step"] == 4:
            with torch.no_grad():
                policy.causal_lm.lm_head.weight[:] = float("nan")

    config = dataclasses.replace(config, save_every=3)
    with pytest.raises(UserError) as caught:
        train(config, callbacks=[break_it])
    message = str(caught.value)
    assert message.startswith("step 5: the loss cannot be computed")
    assert f"{pairs_file}, line " in message
    assert "checkpoint-000003" in message
    whole = train(dataclasses.replace(config, output=config.output + "-whole"))
    assert [r["loss"] for r in train(config).history] == [r["loss"] for r in whole.history]


def test_a_loss_that_is_not_finite_names_the_pair_that_has_it(config, pairs_file, monkeypatch):
    honest = PrecomputedReference._sequence

    def broken(self, k):
        return honest(self, k) * (-math.inf if k == 2 * 6 else 1.0)  # the chosen completion of pair 6

    monkeypatch.setattr(PrecomputedReference, "_sequence", broken)
    with pytest.raises(
        UserError, match=rf"the loss is inf\. Pairs: {pairs_file}, line 7\. The weights were not changed"
    ):
        train(config)


def test_a_gradient_that_is_not_finite_stops_before_the_step(config):
    def break_it(record, policy):
        policy.causal_lm.model.norm.weight.register_hook(lambda grad: grad * float("inf"))

    with pytest.raises(
        UserError, match=r"step 2: the gradient's norm is (inf|nan)\. Pairs: .*line .*There is no checkpoint"
    ):
        train(config, callbacks=[break_it])
    assert [r["step"] for r in lines(config)] == [1]


def test_unsuitable_data_and_options(config, tmp_path):
    long = [{"prompt": "p", "chosen": "a" * 400, "rejected": "b"}]
    with pytest.raises(
        UserError, match="max_length: the longest sequence has 402 tokens, but the model has 256 positions"
    ):
        train(config, train_pairs=long)
    with pytest.raises(UserError, match=r"loss='sigmiod': .*did you mean 'sigmoid'"):
        train(dataclasses.replace(config, loss="sigmiod"))
    with pytest.raises(UserError, match="device='warp'"):
        train(dataclasses.replace(config, device="warp"))
    with pytest.raises(UserError, match="no such directory"):
        train(dataclasses.replace(config, model=str(tmp_path / "none")))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output .*file: cannot be written: File exists"):
        train(dataclasses.replace(config, output=str(tmp_path / "file")))
    assert not any(Path(config.output).glob("checkpoint-*"))


def test_weights_that_give_nan_are_refused_before_training(config, model_dir, tmp_path):
    for file in model_dir.iterdir():
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model_dir / "model.safetensors")
    tensors["model.embed_tokens.weight"][:] = float("nan")
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="the model's logits are not finite: its weights hold NaN"):
        train(dataclasses.replace(config, model=str(tmp_path / "broken")))


def test_a_held_out_loss_that_cannot_be_computed(config, pairs_file):
    def break_it(record, policy):
        if record["step"] == 1:
            with torch.no_grad():
                policy.causal_lm.lm_head.weight[:] = float("nan")

    config = dataclasses.replace(config, eval_data=str(pairs_file), eval_every=1)
    with pytest.raises(UserError, match="step 1: the held-out loss cannot be computed"):
        train(config, callbacks=[break_it])


def test_two_runs_do_not_share_an_output(config):
    def start_again(record, policy):
        with pytest.raises(UserError, match=r"another run is using it"):
            train(config)

    assert train(config, callbacks=[start_again]).step == 6


def test_a_tokenizer_of_another_model(config, tmp_path, tokenizer):
    from .conftest import make_llama

    make_llama(len(tokenizer) - 6).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"token id \d+, but the model has \d+: they do not belong together"):
        train(dataclasses.replace(config, model=str(tmp_path / "small")))


def test_held_out_pairs_from_memory_do_not_touch_training(config):
    records = make_pairs(12)
    with_evaluation = train(config, train_pairs=records, eval_pairs=make_pairs(3))
    alone = train(dataclasses.replace(config, output=config.output + "-alone"), train_pairs=copy.deepcopy(records))
    assert with_evaluation.history[0]["eval_pairs"] == 3
    assert [r["loss"] for r in with_evaluation.history if "loss" in r] == [r["loss"] for r in alone.history]
