import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fastpref import UserError
from fastpref._files import SaveError
from fastpref.train import checkpoint, train

from .conftest import make_pairs


def steps(result):
    return [{k: v for k, v in r.items() if not k.endswith("seconds")} for r in result.history]


def names(config):
    return sorted(p.name for p in Path(config.output).iterdir())


def test_keeps_the_newest(config):
    train(dataclasses.replace(config, max_steps=5, save_every=1, keep_checkpoints=2))
    assert names(config) == [".lock", "checkpoint-000004", "checkpoint-000005", "log.jsonl"]


def test_holds_no_pickle(config):
    result = train(dataclasses.replace(config, max_steps=1))
    kinds = {p.suffix for p in result.checkpoint.iterdir()}
    assert kinds <= {".safetensors", ".json", ".jinja"}
    state = json.loads((result.checkpoint / "trainer_state.json").read_text())
    assert (state["step"], state["epoch"], state["cursor"], state["config"]["lr"]) == (1, 0, 4, config.lr)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reference", ["precomputed", "online"])
def test_a_resumed_run_equals_an_uninterrupted_one(config, pairs_file, dtype, reference, own_cache):
    """An exception stands for the kill; tests of real kills are in test_resume.py. Step 3 ends an epoch."""
    config = dataclasses.replace(
        config, dtype=dtype, reference=reference, eval_data=str(pairs_file), eval_every=2, save_every=3
    )
    whole = train(dataclasses.replace(config, output=config.output + "-whole"))

    class Killed(Exception):
        pass

    def kill(record, policy):
        if record["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        train(config, callbacks=[kill])
    if reference == "precomputed":  # then the initial model must be loaded beside the policy
        for file in (own_cache / "reference").iterdir():
            file.unlink()
    resumed = train(config)
    assert steps(resumed) == steps(whole)
    for name, value in whole.policy.causal_lm.state_dict().items():
        assert torch.equal(resumed.policy.causal_lm.state_dict()[name], value), name
    ours, theirs = ((r.checkpoint / "optimizer.safetensors").read_bytes() for r in (resumed, whole))
    assert ours == theirs


def test_a_finished_run_is_not_run_again(config):
    first = train(config)
    again = train(config)
    assert again.checkpoint == first.checkpoint
    assert again.history == first.history


def test_a_given_checkpoint_continues_elsewhere(config):
    whole = train(dataclasses.replace(config, save_every=4))
    middle = Path(config.output) / "checkpoint-000004"
    branch = train(dataclasses.replace(config, resume=str(middle), output=config.output + "-branch"))
    assert branch.policy.causal_lm.lm_head.weight.equal(whole.policy.causal_lm.lm_head.weight)
    with pytest.raises(UserError, match=r"output also holds the newer .*checkpoint-000006"):
        train(dataclasses.replace(config, resume=str(middle)))
    with pytest.raises(UserError, match="is not a checkpoint"):
        train(dataclasses.replace(config, resume=config.model))
    with pytest.raises(UserError, match=r"resume=never: .*checkpoint-000006 exists"):
        train(dataclasses.replace(config, resume="never"))


def test_another_run_is_not_continued(config, tmp_path):
    train(dataclasses.replace(config, max_steps=2))
    with pytest.raises(UserError) as caught:
        train(dataclasses.replace(config, max_steps=2, lr=2e-3, beta=0.3), train_pairs=make_pairs(11))
    message = str(caught.value)
    assert "lr: 0.001 then, 0.002 now" in message
    assert "beta: None then, 0.3 now" in message
    assert "data: its content has changed" in message
    with pytest.raises(UserError, match="max_steps: 2 then, 4 now"):
        train(dataclasses.replace(config, max_steps=4))


def test_a_run_with_a_constant_rate_can_be_made_longer(config):
    config = dataclasses.replace(config, schedule="constant", warmup=1)
    whole = train(dataclasses.replace(config, output=config.output + "-whole"))
    train(dataclasses.replace(config, max_steps=2))
    assert steps(train(config)) == steps(whole)


def test_what_does_not_change_the_numbers_may_change(config, tmp_path, pairs_file):
    moved = tmp_path / "moved.jsonl"
    whole = train(dataclasses.replace(config, output=config.output + "-whole"))
    train(dataclasses.replace(config, max_steps=6, save_every=2), callbacks=[])
    last = Path(config.output) / "checkpoint-000006"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    moved.write_bytes(pairs_file.read_bytes())
    options = {"data": str(moved), "save_every": 1, "keep_checkpoints": 1, "gradient_checkpointing": True}
    assert steps(train(dataclasses.replace(config, **options))) == steps(whole)


def test_damaged_checkpoints_are_refused(config):
    result = train(dataclasses.replace(config, max_steps=2))
    config = dataclasses.replace(config, max_steps=2)
    state = result.checkpoint / "trainer_state.json"
    good = state.read_text()
    state.write_text(good.replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="expected a checkpoint of format 1, found 99"):
        train(config)
    state.write_text("{")
    with pytest.raises(UserError, match=r"trainer_state\.json cannot be read"):
        train(config)
    state.write_text(good)
    file = result.checkpoint / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match="checkpoint-000002: cannot be continued"):
        train(config)


def test_a_failed_save_leaves_the_previous_checkpoint(config):
    train(dataclasses.replace(config, max_steps=6, save_every=3))
    before = {p: p.read_bytes() for p in Path(config.output).rglob("*") if p.is_file()}

    class Tokenizer:
        def save_pretrained(self, directory):
            assert (directory / "model.safetensors").exists()
            raise Exception("No space left on device (os error 28)")  # as the tokenizers library does

    state = checkpoint.read_state(Path(config.output) / "checkpoint-000006")
    model = train(config).policy.causal_lm
    with pytest.raises(SaveError, match=r"could not save the checkpoint of step 7 .*No space left on device"):
        checkpoint.save(
            Path(config.output),
            dataclasses.replace(state, step=7),
            model=model,
            tokenizer=Tokenizer(),
            optimizer=torch.optim.AdamW(model.parameters()),
            objective_state={},
            keep=1,
        )
    assert {p: p.read_bytes() for p in Path(config.output).rglob("*") if p.is_file()} == before


def test_leftovers_of_a_killed_pruning_are_removed(config):
    train(dataclasses.replace(config, max_steps=2))
    leftover = Path(config.output) / ".removing-checkpoint-000001"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"")
    (Path(config.output) / "checkpoint-000009").mkdir()  # not a checkpoint: nothing in it
    config = dataclasses.replace(config, schedule="constant", warmup=0, output=config.output)
    assert checkpoint.find(config).name == "checkpoint-000002"
