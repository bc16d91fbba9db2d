"""What the benchmark scripts share does what their tables rely on."""

import json
from pathlib import Path

import measure
import pytest
import torch
from measure import Timings, interleaved, peak_resident, print_checks, resident_bytes


def test_every_variant_runs_once_per_round_in_turn():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(variants, 3, warmups=2, before=lambda name: calls.append(name.upper()))
    assert "".join(calls) == "AaBb" * 5
    assert [len(seconds) for seconds in times.seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_of_the_ratios_within_a_round():
    times = Timings({"a": [2.0, 20.0, 9.0], "b": [1.0, 10.0, 3.0]})
    assert times.ratio("a", "b") == 2.0
    assert times.medians() == {"a": 9.0, "b": 3.0}
    assert times.sum_of("both", ["a", "b", "b"]).seconds["both"] == [4.0, 40.0, 15.0]


@pytest.mark.parametrize("resettable", [True, False], ids=["high-water mark", "sampled"])
def test_peak_is_that_of_the_run_and_counts_what_was_freed(monkeypatch, resettable):
    if not resettable:
        refuse = Path.write_text

        def write_text(path: Path, text: str) -> int:
            if path.name == "clear_refs":
                raise PermissionError(path)
            return refuse(path, text)

        monkeypatch.setattr(Path, "write_text", write_text)
    block = 96 << 20
    measure.trim()
    before = resident_bytes()

    def run() -> None:
        held = torch.ones(block, dtype=torch.uint8)
        for _ in range(20):
            held += 1

    grown = peak_resident(run) - before
    assert 0.9 * block < grown < 1.5 * block
    assert peak_resident(lambda: None) - before < 0.5 * block


def test_a_failing_child_is_reported_with_its_error(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import sys\nprint('noise')\nprint(int(sys.argv[1]) * 2)\n")
    assert measure.in_own_process(str(script), ["21"]) == 42
    with pytest.raises(RuntimeError, match="invalid literal"):
        measure.in_own_process(str(script), ["x"])


def test_gemm_rate_counts_three_products():
    hidden, weight = torch.ones(2, 3), torch.ones(5, 3)
    measure.head_gemms(hidden, weight)()
    assert measure.gemm_flops(2, 3, 5) == 3 * 2 * 2 * 3 * 5


def test_checks_fail_where_one_fails_and_where_nothing_was_checked(capsys):
    assert print_checks([("a", True)]) == 0
    assert print_checks([("a", True), ("b", False)]) == 1
    assert print_checks([]) == 1
    assert "FAILS  b" in capsys.readouterr().out


def test_json_names_the_machine(tmp_path):
    measure.write_json(None, {})
    measure.write_json(tmp_path / "x.json", {"tables": [1]})
    written = json.loads((tmp_path / "x.json").read_text())
    assert written == {"torch": torch.__version__, "threads": torch.get_num_threads(), "tables": [1]}
