"""``bench/on_gpu.py`` at toy sizes on the CPU: every contestant runs, and every number is there."""

import json

import on_gpu
import pytest
import torch
from head_contestants import CONTESTANTS
from logits_given import OTHERS

TOY = ["--device", "cpu", "--shapes", "16x96", "--rows", "32", "--repeats", "1", "--dtypes", "float32"]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """A compilation takes longer than the whole suite."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def test_every_contestant_has_its_line(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    assert on_gpu.main([*TOY, "--json", str(path)]) == 0
    printed, (linear, given) = capsys.readouterr().out, json.loads(path.read_text())["tables"]
    names = {row["contestant"] for row in linear["rows"]}
    assert names | set(linear["skipped"]) == set(CONTESTANTS)
    assert {"fastpref", "naive", "compile"} <= names
    both = {f"fastpref {name}" for name in on_gpu.BACKENDS}
    names_given = {row["contestant"] for row in given["rows"]} | set(given["skipped"])
    assert names_given == {*on_gpu.GIVEN, *OTHERS, *both} - {"eager, float32 softmax"}
    assert all(name in printed for name in names)
    for row in linear["rows"]:
        assert row["seconds"] > 0
        assert row["floor"] > 0
        assert row["errors"]["log_ratio"] < 1e-4
        assert row["errors"]["gradient"] < 1e-5
    assert linear["rows"][0]["ratio"] == given["rows"][0]["ratio"] == 1.0
    by_name = {row["contestant"]: row for row in given["rows"]}
    assert by_name["fastpref in place"]["peak_bytes"] < by_name["fastpref"]["peak_bytes"] <= by_name["eager"]["peak_bytes"]  # fmt: skip


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        on_gpu.main([])
    assert "found no CUDA or ROCm GPU" in capsys.readouterr().err
