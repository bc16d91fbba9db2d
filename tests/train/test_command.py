import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fastpref.train import main

from .processes import arguments


def test_trains_from_a_yaml_file_with_overrides(config, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {config.model}\ndata: {config.data}\noutput: {config.output}\nlr: 1e-3\nmax_steps: 9\n")
    assert main(["--config", str(file), "--max-steps", "2", "--threads", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"trained 2 steps; the model is in {config.output}/checkpoint-000002\n"
    assert "12 training pairs" in shown.err


def test_reports_what_is_left_out(config, tmp_path, capsys):
    path = Path(config.data)
    path.write_text(path.read_text() + '{"prompt": "p", "chosen": "a", "rejected": "a"}\n')
    assert main(arguments(dataclasses.replace(config, max_steps=1))) == 0
    assert f"pairs skipped because chosen and rejected are the same: 1 ({path}, line 13)" in capsys.readouterr().err


def test_errors_are_one_line_and_status_1(config, capsys):
    Path(config.data).write_text('{"prompt": "p", "chosen": "a"}\n')
    assert main(arguments(config)) == 1
    err = capsys.readouterr().err
    assert (
        err == f"fastpref train: error: {config.data}, line 1: column 'rejected' is missing (columns: prompt, chosen)\n"
    )


def test_missing_extra(config, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("tyro", "yaml") else find(name))
    assert main(arguments(config)) == 1
    err = capsys.readouterr().err
    assert err == "fastpref train: error: training needs tyro, pyyaml: pip install 'fastpref[train]'\n"


def test_tensorboard_is_asked_for_but_not_there(config, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*arguments(config), "--tensorboard"]) == 1
    assert "pip install tensorboard" in capsys.readouterr().err


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, fastpref.train; print(sorted({'torch', 'transformers', 'tyro'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_names_of_the_package():
    import fastpref.train

    assert set(fastpref.train.__all__) <= set(dir(fastpref.train))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        fastpref.train.tarin  # noqa: B018
