"""Real processes, really killed: what is on disk afterwards continues bit for bit."""

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fastpref.train import train

from . import processes
from .processes import Run, arguments

DTYPES = ("float32", "bfloat16")


def losses(config):
    lines = [json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in lines]


def complete(config):
    return sorted(p.name for p in Path(config.output).glob("checkpoint-*"))


def hidden(config):
    return [p.name for p in Path(config.output).iterdir() if p.name.startswith((".checkpoint", ".removing"))]


def same_weights(first, second):
    a, b = (load_file(path / "model.safetensors") for path in (first, second))
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture
def long(config):
    return dataclasses.replace(config, max_steps=14, save_every=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_killed_after_a_step_and_within_a_save_it_resumes_bit_for_bit(long, dtype):
    config = dataclasses.replace(long, dtype=dtype)
    whole = dataclasses.replace(config, output=f"{config.output}-whole")
    expected = train(whole)
    step = random.Random(20261122).randrange(4, 12)

    code, printed = Run(processes.die_after_step, config, step).finish()
    assert code == -signal.SIGKILL, printed
    assert losses(config) == losses(whole)[:step]
    saved = f"checkpoint-{3 * (step // 3):06d}"
    assert complete(config)[-1] == saved

    code, printed = Run(processes.die_while_saving, config).finish()
    assert code == -signal.SIGKILL, printed
    assert hidden(config), "the kill left an unfinished checkpoint behind"
    assert complete(config)[-1] == saved

    resumed = train(config)
    assert losses(config) == losses(whole)
    assert same_weights(resumed.checkpoint, expected.checkpoint)
    assert not hidden(config)


@pytest.mark.parametrize("dtype", DTYPES)
def test_killed_at_random_moments_until_it_is_done(long, dtype):
    """Moments from loading to pruning, wherever the clock happens to hit."""
    config = dataclasses.replace(long, dtype=dtype, save_every=1)
    whole = dataclasses.replace(config, output=f"{config.output}-whole")
    expected = train(whole)
    chance = random.Random(1)
    for _ in range(4):
        run = Run(processes.plain, config)
        started, before = time.monotonic(), complete(config)[-1:]
        while complete(config)[-1:] == before and run.process.exitcode is None and time.monotonic() < started + 30:
            time.sleep(0.005)  # until there is a new checkpoint, so that every life gets somewhere
        time.sleep(chance.random() * 0.15)
        run.process.kill()
        run.process.join()
    resumed = train(config)
    assert losses(config) == losses(whole)
    assert same_weights(resumed.checkpoint, expected.checkpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(long, number):
    config = dataclasses.replace(long, max_steps=5000, save_every=5000)
    run = Run(processes.command, config, arguments(config))
    log = Path(config.output) / "log.jsonl"
    started = time.monotonic()
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert run.process.exitcode is None, run.finish()
        assert time.monotonic() < started + 60
        time.sleep(0.02)
    os.kill(run.process.pid, number)
    code, printed = run.finish()
    assert code == 128 + number, printed
    steps = [step for step, _, _ in losses(config)]
    assert steps == list(range(1, len(steps) + 1))
    assert complete(config) == [f"checkpoint-{len(steps):06d}"]
    assert f"stopped by {number.name} after step {len(steps)}" in printed
    assert "the same command continues from it" in printed
    assert "Traceback" not in printed


def test_a_full_disk_at_a_save_keeps_the_previous_checkpoint(long):
    code, printed = Run(processes.full_disk_after_step, long, 3, arguments(long)).finish()
    assert code == 1, printed
    assert "fastpref train: error: could not save the checkpoint of step 6" in printed
    assert "What was saved before is untouched" in printed
    assert "Traceback" not in printed
    assert complete(long) == ["checkpoint-000003"]
    assert not hidden(long)
    whole = dataclasses.replace(long, output=f"{long.output}-whole")
    assert same_weights(train(long).checkpoint, train(whole).checkpoint)
    assert losses(long) == losses(whole)


def test_a_full_disk_at_the_log_is_an_error_and_a_torn_line_is_dropped(long):
    code, printed = Run(processes.full_log_after_step, long, 4).finish()
    assert code == 1, printed
    assert "could not save the log" in printed
    assert complete(long) == ["checkpoint-000003"]
    assert not (Path(long.output) / "log.jsonl").read_text().endswith("\n")
    whole = dataclasses.replace(long, output=f"{long.output}-whole")
    train(whole)
    train(long)
    assert losses(long) == losses(whole)
