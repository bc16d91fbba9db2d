"""Opt-in autotuning with times that are made up: what is measured, what is remembered, and what a broken cache does. Needs no GPU."""

import json
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from fastpref.kernels import autotune, tiling  # noqa: E402

CANDIDATES = {"2 warps": 2, "4 warps": 4, "8 warps": 8}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_known", {})
    return tmp_path / "cache" / "autotune.json"


class Gpu:
    """Times of candidates, and which were measured."""

    def __init__(self, name: str = "H100", **times: float) -> None:
        self.name, self.measured, self.running = name, [], 0
        self.times = {2: 3.0, 4: 1.0, 8: 2.0} | {int(k.removeprefix("w")): v for k, v in times.items()}

    def run(self, candidate: int) -> None:
        if self.times[candidate] < 0:
            raise triton.runtime.errors.OutOfResources(1 << 20, 1 << 16, "shared memory")
        self.running = candidate

    def timer(self, run) -> float:
        run()
        self.measured.append(self.running)
        return self.times[self.running]

    def choose(self, what: str = "rows", candidates: dict[str, int] = CANDIDATES) -> int:
        return autotune.choose(what, candidates, "8 warps", self.run, timer=self.timer, device=lambda: self.name)


def forget() -> None:
    """As a new process would."""
    autotune._known.clear()


def test_the_fastest_is_measured_once_and_remembered_by_other_processes(cache) -> None:
    gpu = Gpu()
    assert [gpu.choose(), gpu.choose()] == [4, 4]
    assert gpu.measured == [2, 4, 8]
    forget()
    assert gpu.choose() == 4
    assert gpu.measured == [2, 4, 8]
    choices = json.loads(cache.read_text())["choices"]
    assert choices == {f"rows; H100; triton {triton.__version__}": "4 warps"}
    assert [path.name for path in cache.parent.iterdir()] == ["autotune.json"]  # nothing is left beside it


def test_what_device_and_version_are_tuned_apart(monkeypatch) -> None:
    assert Gpu().choose() == 4
    assert Gpu("A100", w8=0.5).choose() == 8
    assert Gpu(w2=0.5).choose("columns") == 2
    assert Gpu(w2=0.5).choose() == 4
    monkeypatch.setattr(triton, "__version__", "99")
    assert Gpu(w2=0.5).choose() == 2


def test_one_candidate_is_not_measured(cache) -> None:
    gpu = Gpu()
    assert gpu.choose(candidates={"8 warps": 8}) == 8
    assert gpu.measured == []
    assert not cache.exists()


def test_a_candidate_that_cannot_be_launched_is_passed_over() -> None:
    assert Gpu(w4=-1.0).choose() == 8


def test_the_default_where_none_can_be_launched(cache) -> None:
    assert Gpu(w2=-1.0, w4=-1.0, w8=-1.0).choose() == 8
    assert not cache.exists()


def test_other_errors_are_not_hidden() -> None:
    def broken(candidate: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        autotune.choose("rows", CANDIDATES, "8 warps", broken, timer=lambda run: run() or 0.0, device=lambda: "H100")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "choices": []}',
        '{"version": 1, "choices": {"a": 1}}',
        "\xff\xfe",
    ],
)
def test_a_broken_file_is_ignored_with_a_warning_and_replaced(cache, content) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content.encode("latin-1"))
    with pytest.warns(UserWarning, match="ignoring the autotuning cache"):
        assert Gpu().choose() == 4
    forget()
    assert Gpu(w2=0.1).choose() == 4


def test_a_file_of_another_version_is_replaced(cache) -> None:
    cache.parent.mkdir()
    cache.write_text('{"version": 0, "choices": {}}')
    assert Gpu().choose() == 4
    assert json.loads(cache.read_text())["version"] == 1


def test_a_choice_that_is_no_longer_a_candidate_is_measured_again() -> None:
    assert Gpu().choose() == 4
    forget()
    assert Gpu().choose(candidates={"2 warps": 2, "8 warps": 8}) == 8
    forget()
    assert Gpu(w2=0.1).choose(candidates={"2 warps": 2, "8 warps": 8}) == 8


def test_a_file_that_cannot_be_written_costs_a_warning(monkeypatch, cache) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(autotune.os, "replace", full)
    with pytest.warns(UserWarning, match="cannot remember"):
        assert Gpu().choose() == 4
    assert Gpu(w2=0.1).choose() == 4  # in this process it is known all the same
    assert list(cache.parent.iterdir()) == []


def test_the_first_process_to_reach_the_disk_decides(cache) -> None:
    slow, quick = Gpu(), Gpu(w2=0.1)

    def meanwhile(run) -> float:
        known = dict(autotune._known)
        quick.choose()
        autotune._known.clear()
        autotune._known.update(known)
        return slow.timer(run)

    assert autotune.choose("rows", CANDIDATES, "8 warps", slow.run, timer=meanwhile, device=lambda: "H100") == 2


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch, cache) -> None:
    monkeypatch.setattr(autotune.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(autotune.torch.cuda, "is_current_stream_capturing", lambda: True)
    gpu = Gpu()
    assert gpu.choose() == 8
    assert gpu.measured == []
    monkeypatch.setattr(autotune.torch.cuda, "is_current_stream_capturing", lambda: False)
    assert gpu.choose() == 4


@pytest.mark.parametrize(("value", "on"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_off_unless_asked_for(monkeypatch, value, on) -> None:
    monkeypatch.delenv("FASTPREF_AUTOTUNE", raising=False)
    if value is not None:
        monkeypatch.setenv("FASTPREF_AUTOTUNE", value)
    assert autotune.enabled() is on


def test_the_file_lies_where_other_cached_files_do(monkeypatch, tmp_path) -> None:
    from fastpref._files import cache_dir

    for own, shared in ((str(tmp_path / "a"), ""), ("", str(tmp_path / "b")), ("", "relative"), ("", "")):
        monkeypatch.setenv("FASTPREF_CACHE", own)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert autotune.cache_file() == cache_dir() / "autotune.json"


def test_rows_are_tiled_as_was_measured(monkeypatch) -> None:
    """A tiling is asked for its warps, and the launch that is measured has those of the candidate."""
    seen = []

    def choose(what, candidates, default, run):
        seen.append((what, list(candidates), default))
        for number in candidates.values():
            run(number)
        return candidates["4 warps"]

    measured = []
    monkeypatch.setenv("FASTPREF_AUTOTUNE", "1")
    monkeypatch.setattr(tiling, "INTERPRETED", False)
    monkeypatch.setattr(tiling, "active_family", lambda: "cuda9")
    monkeypatch.setattr(tiling, "warp_size", lambda: 32)
    monkeypatch.setattr(tiling.autotune, "choose", choose)
    monkeypatch.setattr(
        tiling, "_representative", lambda *shape: lambda: measured.append(tiling.tiling(*shape).num_warps)
    )
    assert tiling.tiling(50000, 2, 4) == tiling.Tiling(lanes=1024, num_warps=4)
    assert seen == [
        ("rows of 65536 columns, 2 bytes each, 4 loads", ["2 warps", "4 warps", "8 warps", "16 warps"], "8 warps")
    ]
    assert measured == [2, 4, 8, 16]
    monkeypatch.delenv("FASTPREF_AUTOTUNE")
    assert tiling.tiling(50000, 2, 4).num_warps == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or tiling.INTERPRETED, reason="no GPU, or kernels are interpreted")
@pytest.mark.parametrize("loads", [2, 4])
def test_on_a_gpu(monkeypatch, cache, loads) -> None:
    monkeypatch.setenv("FASTPREF_AUTOTUNE", "1")
    found = tiling.tiling(32768, 2, loads)
    assert found.num_warps in (2, 4, 8, 16)
    assert torch.cuda.get_device_name() in cache.read_text()
    forget()
    assert tiling.tiling(32768, 2, loads) == found
