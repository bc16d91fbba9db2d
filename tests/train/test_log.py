import json
import logging
import sys
import types

import pytest

from fastpref.train.log import RunLog


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path, after=0)
    for step in range(5):
        log.write({"step": step, "loss": 0.1 * step})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    log = RunLog(path, after=2)
    assert [r["step"] for r in log.records] == steps(path) == [0, 1, 2]
    log.write({"step": 3})
    log.sync()
    log.close()
    assert steps(path) == [0, 1, 2, 3]


def test_a_run_from_the_start_replaces_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n')
    RunLog(path, after=0).close()
    assert path.read_text() == ""


def test_a_lost_log_is_noticed_and_continued(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "fastpref"):
        log = RunLog(tmp_path / "log.jsonl", after=3)
    assert "is gone: the log continues after step 3" in caplog.text
    log.write({"step": 4})
    log.close()
    assert steps(tmp_path / "log.jsonl") == [4]


def test_numbers_survive_exactly(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", after=0)
    value = 0.1 + 0.2
    log.write({"step": 1, "loss": value})
    log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == value


@pytest.fixture
def board(monkeypatch):
    """Stands for the tensorboard package."""
    calls = []

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            calls.append((directory, purge_step))

        def add_scalar(self, *args):
            calls.append(args)

        def close(self):
            calls.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def test_tensorboard_gets_every_number(tmp_path, board):
    log = RunLog(tmp_path / "log.jsonl", after=0, tensorboard=tmp_path / "board")
    log.write({"step": 7, "loss": 0.5, "note": "text"})
    log.close()
    assert board == [(str(tmp_path / "board"), 1), ("loss", 0.5, 7), "closed"]
