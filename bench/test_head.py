"""``bench/head.py`` at toy sizes: every contestant computes the same loss and gradients, and what cannot run is left out with the reason."""

import json
from types import SimpleNamespace

import head
import head_contestants
import pytest
import torch
from head_contestants import CONTESTANTS, IGNORE, Problem, Scenario
from head_oracle import errors, truth

TOY = ["--shapes", "16x96", "--rows", "32", "--repeats", "1"]
SCENARIOS = {
    "plain": Scenario(),
    "prompts": Scenario(prompt_share=0.5),
    "frozen head": Scenario(frozen_head=True),
    "precomputed reference": Scenario(precomputed_reference=True),
    "shared head": Scenario(shared_head=True),
    "all": Scenario(0.5, True, True, True),
}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """A compilation takes longer than the whole suite."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def problem(scenario: Scenario, dtype: torch.dtype = torch.float32) -> Problem:
    return Problem.make(32, 4, 16, 96, dtype, scenario)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_oracle_is_autograd_through_full_logits(scenario):
    p = problem(scenario, torch.float64)
    result = head.step(CONTESTANTS["naive"].load(scenario, torch.float64), p)
    found = errors(p, result, truth(p))
    assert found.log_ratio < 1e-4  # sums are taken in float32
    assert found.gradient < 1e-5
    assert (truth(p).dw is None) == scenario.frozen_head


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_every_contestant_computes_the_same(scenario):
    p = problem(scenario)
    left_out = ("liger", "liger-compiled", "trl", "fastpref-triton", "fastpref-cuda")  # the last two need a GPU
    names = [name for name in CONTESTANTS if name not in left_out]
    forms, _, skipped = head.runnable(names, p, scenario)
    assert set(skipped) <= {"naive-fp32", "fastpref-d1", "fastpref-d2", "fastpref-d3"}
    for found in head.accuracy(list(forms), p.last_rows(16), scenario).values():
        assert found.log_ratio < 1e-4
        assert found.gradient < 1e-5


@pytest.mark.parametrize("name", ["liger", "liger-compiled", "trl"])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_other_libraries_compute_the_same(name, scenario):
    pytest.importorskip("trl" if name == "trl" else "liger_kernel")
    p = problem(scenario)
    forms, _, skipped = head.runnable([name], p, scenario)
    if scenario.precomputed_reference and name != "trl":
        assert "precomputed reference" in skipped[name]
        return
    assert not skipped
    found = head.accuracy(list(forms), p, scenario)[name]
    assert found.log_ratio < 1e-4
    assert found.gradient < 1e-5


def test_fewer_rows_are_the_last_of_every_sequence():
    p = problem(Scenario(prompt_share=0.5, precomputed_reference=True))
    fewer = p.last_rows(16)
    assert fewer.targets.tolist() == p.by_sequence(p.targets)[:, -4:].flatten().tolist()
    assert IGNORE not in fewer.targets
    assert fewer.weight is p.weight
    assert fewer.ref_logps.shape == (4,)


def test_what_cannot_run_is_left_out_with_the_reason(monkeypatch):
    p = problem(Scenario())

    def missing(scenario, dtype):
        raise ImportError("No module named 'elsewhere'")

    monkeypatch.setitem(CONTESTANTS, "trl", head_contestants.Contestant(missing))
    forms, results, skipped = head.runnable(["trl", "naive", "naive-fp32"], p, Scenario())
    assert list(forms) == list(results) == ["naive"]
    assert skipped["trl"] == "ImportError: No module named 'elsewhere'"
    assert "the same as naive" in skipped["naive-fp32"]

    monkeypatch.setattr(head, "available_bytes", lambda: 1 << 10)
    _, _, skipped = head.runnable(["naive"], p, Scenario())
    assert skipped["naive"].startswith("needs about 0.0 GiB")


def test_a_run_writes_every_number_and_the_table(tmp_path, capsys):
    path = tmp_path / "head.json"
    names = ["naive", "naive-fp32", "fastpref"]
    run = [*TOY, "--contestants", *names, "--no-memory", "--markdown", "--check", "--json", str(path)]
    status = head.main(run)
    printed = capsys.readouterr().out
    assert ("FAILS" in printed) == bool(status)
    assert "| fastpref (D" in printed
    content = json.loads(path.read_text())
    assert [table["dtype"] for table in content["tables"]] == ["float32", "bfloat16"]
    for table in content["tables"]:
        rows = {row["contestant"]: row for row in table["rows"]}
        assert set(rows) | set(table["skipped"]) == set(names)
        assert rows["fastpref"]["ratio"] == 1.0
        assert rows["naive"]["floor"] > 0
        assert table["torch_errors"]["gradient"] == rows["naive"]["gradient_error"]


def test_the_errors_of_plain_torch_are_there_without_its_contestant(capsys):
    assert head.main([*TOY, "--contestants", "fastpref-512m", "--no-memory"]) == 0
    assert capsys.readouterr().out.count("torch's own errors") == 2


def test_checks_judge_both_budgets_against_floor_rivals_and_budget():
    row = {"floor": 1.0, "limit_bytes": 64 << 20, "peak_bytes": 60 << 20}
    table = {
        "problem": "p",
        "dtype": "float32",
        "rows": [{"contestant": "fastpref", **row}, {"contestant": "naive", **row}],
        "ratios": {"fastpref": {"naive": 0.9}},
        "skipped": {"fastpref-512m": "why"},
    }
    assert [holds for _, holds in head.checks([table])] == [True, False, True, False]
    table["rows"][0]["peak_bytes"] = 80 << 20
    assert [holds for _, holds in head.checks([table | {"dtype": "bfloat16"}])] == [False, False, False, False]


def test_growth_is_above_the_inputs():
    args = SimpleNamespace(
        shapes=[(16, 65536)], rows=[256], sequences=4, dtypes=["float32"],
        prompt_share=0.0, frozen_head=False, precomputed_reference=False, shared_head=False,
    )  # fmt: skip
    logits = 256 * 65536 * 4
    assert head.growth(args, CONTESTANTS["naive"]) > 1.5 * logits


def test_peaks_come_from_processes_of_their_own():
    args = SimpleNamespace(
        sequences=4, prompt_share=0.5, frozen_head=True, precomputed_reference=False, shared_head=True
    )
    grown = head.peaks(["fastpref"], args, 64, (16, 4096), "bfloat16")
    assert grown["fastpref"] < 64 << 20
