"""The CUDA kernels compiled for a GPU that is not here, against ``bench/cuda_ahead_of_time.json``; and what reads, judges and shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .ahead_of_time import compiling, report
from .ahead_of_time.rules import RULES, Rule

ROOT = Path(__file__).parents[2]
needs_tools = pytest.mark.skipif(compiling.missing() is not None, reason=str(compiling.missing()))

GOOD = {
    "threads": 256,
    "registers": 64,
    "spilled_bytes": 0,
    "local": 0,
    "shared": 1024,
    "wide_loads": 4,
    "narrow_loads": 3,
    "wide_stores": 2,
    "tensor_core": 16,
    "resident_blocks": 4,
    "resident_warps": 32,
    "in_flight": 64,
}
NAME = "k<BFloat16>"
RULE = Rule("k<.*>", streams=True, writes=True, tensor_cores=True, most_registers=128)


@pytest.mark.slow
@needs_tools
def test_nothing_got_worse() -> None:
    if compiling.version() != (made := report.load()["nvcc"]):
        pytest.skip(f"the table was made with nvcc {made}, this is {compiling.version()}")
    command = [sys.executable, "-m", "tests.cuda.ahead_of_time", "--check", "--targets", "sm_90"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-4000:]


def test_the_kept_table_is_whole_and_shown() -> None:
    table = report.load()
    for name, per_target in table["kernels"].items():
        assert list(per_target) == compiling.TARGETS, name
    assert report.complaints(compiling.TARGETS, RULES, table, None) == []
    assert report.KEPT.read_text() == report.tables.as_json("nvcc", table)
    assert report.SHOWN.read_text() == report.as_markdown(table)


def test_the_targets_are_those_that_are_built() -> None:
    assert compiling.TARGETS == ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    assert "-std=c++17" in compiling.of_setup("CUDA_FLAGS")
    with pytest.raises(LookupError, match="no constant NOTHING"):
        compiling.of_setup("NOTHING")


def table(**changed) -> report.Table:
    return {"nvcc": "1", "kernels": {NAME: {"sm_90": {**GOOD, **changed}}}}


def complaints(kept: report.Table | None = None, rules: list[Rule] | None = None, **changed) -> str:
    found = report.complaints(["sm_90"], [RULE] if rules is None else rules, table(**changed), kept)
    return "; ".join(text.removeprefix(f"{NAME} on sm_90 ") for text in found)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({}, ""),
        ({"spilled_bytes": 8}, "spills 8 bytes"),
        ({"local": 2}, "has 2 accesses of local memory"),
        ({"wide_loads": 0}, "has no 16-byte loads"),
        ({"wide_stores": 0}, "has no 16-byte stores"),
        ({"tensor_core": 0}, "has no tensor-core instructions"),
        ({"registers": 129}, "takes 129 registers, where 128 are the most"),
        ({"resident_blocks": 0}, "fits no multiprocessor"),
    ],
)
def test_what_must_not_be(changed, complaint) -> None:
    assert complaints(**changed) == complaint


def test_rules_are_looked_for_in_their_order() -> None:
    assert complaints(rules=[]) == "has no rule in tests/cuda/ahead_of_time/rules.py"
    assert complaints(rules=[Rule("k"), Rule("other<.*>")]) != ""
    assert complaints(rules=[Rule(r"k<BFloat16.*>", may_spill=True), RULE], spilled_bytes=8, wide_loads=0) == ""


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({}, ""),
        ({"registers": 72, "wide_loads": 5, "narrow_loads": 2, "shared": 2048}, ""),
        ({"registers": 73}, "takes 73 registers, was 64"),
        ({"resident_warps": 24}, "has 24 warps resident, was 32"),
        ({"wide_loads": 3, "narrow_loads": 11}, "has 3 wide loads, was 4; has 11 narrow loads, was 3"),
        ({"wide_stores": 1}, "has 1 wide stores, was 2"),
    ],
)
def test_what_got_worse(changed, complaint) -> None:
    assert complaints(table(), **changed) == complaint


def test_a_table_that_does_not_fit_is_to_be_made_again() -> None:
    assert complaints({"nvcc": "1", "kernels": {}}) == "is not in cuda_ahead_of_time.json: make it again"
    assert "was made with nvcc 0" in complaints({**table(), "nvcc": "0"})
    both = {"nvcc": "1", "kernels": {**table()["kernels"], "old": {}}}
    assert complaints(both) == "old is in cuda_ahead_of_time.json and not in csrc/cuda: make it again"


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("void fastpref::row_sum<float, (fastpref::Kind)1, 4>(fastpref::Args)", "row_sum<float, Kind::kB, 4>"),
        ("void fastpref::row_sum<fastpref::BFloat16, true>(fastpref::Args<int (*)(int)>)", "row_sum<BFloat16, true>"),
        ("void fastpref::k<(fastpref::Kind)7>(int)", "k<(Kind)7>"),
        ("fastpref::_INTERNAL_0a1b_4_x_cu_12_34::keep(fastpref::Args)", "keep"),
    ],
)
def test_names(demangled, name) -> None:
    assert compiling.readable(demangled, {"Kind": ["kA", "kB"]}) == name


def test_names_of_values(tmp_path) -> None:
    (tmp_path / "x.h").write_text(
        "enum class Kind : int { kA, kB };\nenum class Other {\n  kC = 0,  // first, of two\n  kD,\n};\n"
    )
    assert compiling.enumerators(tmp_path) == {"Kind": ["kA", "kB"], "Other": ["kC", "kD"]}


def test_the_markdown_has_a_section_for_each_kernel() -> None:
    both = {"nvcc": "1", "kernels": {"k<float>": {"sm_90": GOOD}, "plain": {"sm_90": {**GOOD, "in_flight": None}}}}
    text = report.as_markdown(both)
    assert "\n## k\n" in text
    assert "| `float` | sm_90 | 256 | 64 | 0 | 0 | 1024 | 4 | 32 | 4 | 2 | 3 | 16 | 64 |\n" in text
    assert "\n## plain\n" in text
    assert "|  | sm_90 | 256 | 64 | 0 | 0 | 1024 | 4 | 32 | 4 | 2 | 3 | 16 |  |\n" in text


SAMPLE = """
#include "launch.h"
namespace fastpref {
enum class Kind : int { kCopy, kAdd };
struct Args { const void* from; void* to; int64_t n; };

template <class T, Kind kKind>
FASTPREF_KERNEL(256, 2)
void streams(const Args a) {
  const int64_t at = blockIdx.x * 256 + threadIdx.x;
  Vector16 v = load16(static_cast<const Vector16*>(a.from) + at);
  if (kKind == Kind::kAdd) {
    const Vector16 w = load16(static_cast<const Vector16*>(a.from) + at + a.n);
    for (int i = 0; i < 4; ++i) v.words[i] += w.words[i];
  }
  store16(static_cast<Vector16*>(a.to) + at, v);
}

// An array that is indexed by what was read is no register.
FASTPREF_KERNEL(64, 1)
void indexes(const Args a) {
  int values[64] = {};
  for (int64_t i = 0; i < a.n; ++i) values[load(static_cast<const int*>(a.from) + i) & 63] += static_cast<int>(i);
  store(static_cast<int*>(a.to) + threadIdx.x, values[load(static_cast<const int*>(a.from) + threadIdx.x) & 63]);
}

FASTPREF_KERNEL(32, 1)
void multiplies(const Args a) {
  FASTPREF_SHARED(Vector16, tile, 64);
  copy16_async(&tile[threadIdx.x], static_cast<const Vector16*>(a.from) + threadIdx.x, 16);
  copy16_async(&tile[threadIdx.x + 32], static_cast<const Vector16*>(a.from) + threadIdx.x + 32, 16);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  uint32_t x[4], y[4];
  load_matrices(x, &tile[threadIdx.x]);
  load_matrices(y, &tile[threadIdx.x + 32]);
  float c[4] = {};
  multiply_add(c, x, y[0], y[1], BFloat16{});
  for (int i = 0; i < 4; ++i) store(static_cast<float*>(a.to) + 4 * threadIdx.x + i, c[i]);
}

void all(Args a) {
  FASTPREF_LAUNCH((streams<BFloat16, Kind::kCopy>), 1, 256, 0, nullptr, a);
  FASTPREF_LAUNCH((streams<float, Kind::kAdd>), 1, 256, 0, nullptr, a);
  FASTPREF_LAUNCH(indexes, 1, 64, 0, nullptr, a);
  FASTPREF_LAUNCH(multiplies, 1, 32, 0, nullptr, a);
}
}  // namespace fastpref
"""


@needs_tools
def test_what_is_read_of_compiled_kernels(tmp_path) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "core").symlink_to(ROOT / "csrc/core")
    for path in (ROOT / "csrc/cuda").glob("*.h"):
        (tmp_path / "cuda" / path.name).symlink_to(path)
    (tmp_path / "cuda/sample.cu").write_text(SAMPLE)
    rules = [Rule("streams<float.*>", in_flight=2), Rule("multiplies", dynamic_shared=100 * 1024)]
    kernels = compiling.compile_all(["sm_86", "sm_90"], tmp_path, rules)["kernels"]
    copy, add, indexes, multiplies = (
        kernels[name]
        for name in ("streams<BFloat16, Kind::kCopy>", "streams<float, Kind::kAdd>", "indexes", "multiplies")
    )
    assert len(kernels) == 4
    for target in ("sm_86", "sm_90"):
        assert [copy[target][key] for key in ("threads", "wide_loads", "wide_stores", "narrow_loads")] == [256, 1, 1, 0]
        assert [add[target][key] for key in ("threads", "wide_loads", "wide_stores", "narrow_loads")] == [256, 2, 1, 0]
        for clean in (copy, add, multiplies):
            assert clean[target]["spilled_bytes"] == clean[target]["local"] == 0
            assert 0 < clean[target]["registers"] <= 64
        assert indexes[target]["spilled_bytes"] == 256
        assert indexes[target]["local"] > 0
        assert multiplies[target]["threads"] == 32
        assert multiplies[target]["wide_loads"] == 2
        assert multiplies[target]["tensor_core"] == 1
        assert multiplies[target]["shared"] == 1024 + 100 * 1024
        assert copy[target]["tensor_core"] == copy[target]["shared"] == 0
    assert copy["sm_90"]["resident_blocks"] == 8  # few registers: the hardware's 2048 threads
    assert copy["sm_86"]["resident_blocks"] == 6
    assert add["sm_90"]["in_flight"] == 64  # 2048 threads with two loads each
    assert copy["sm_90"]["in_flight"] is None
    assert multiplies["sm_90"]["resident_blocks"] == 2
    assert multiplies["sm_86"]["resident_blocks"] == 0
