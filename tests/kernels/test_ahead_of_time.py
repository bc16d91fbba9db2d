"""The kernels compiled for GPUs that are not here, against ``bench/ahead_of_time.json``; and what reads, judges and shows them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from .ahead_of_time import report, resources  # noqa: E402
from .ahead_of_time.cases import CASES, Case, is_main  # noqa: E402

ROOT = Path(__file__).parents[2]
VERSION = "3.9.0"  # the version whose driver interface is stood in for
GOOD = {
    "configuration": "BLOCK=8",
    "warps": 8,
    "registers": 64,
    "spilled_bytes": 0,
    "wide_loads": 4,
    "narrow_loads": 3,
    "wide_stores": 2,
    "tensor_core": 16,
    "loop_communication": 0,
    "shared": 1024,
    "resident_warps": 32,
}
CASE = Case("k", "bfloat16", lambda: None, loops_alone=True, tensor_cores=True, most_registers=128)


def test_nothing_got_worse() -> None:
    if triton.__version__ != VERSION:
        pytest.skip(f"the stand-in driver is written for triton {VERSION}, found {triton.__version__}")
    if missing := [name for name in ("ptxas", "cuobjdump", "nvdisasm") if not (resources.TOOLS / name).exists()]:
        pytest.skip(f"this triton ships without {', '.join(missing)}")
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", "--check", "--main"]
    run = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "FP_FUSION" not in run.stderr


def test_the_kept_table_is_whole_and_shown() -> None:
    table = report.load()
    assert list(table["kernels"]) == [case.name for case in CASES]
    for case in CASES:
        assert list(table["kernels"][case.name]) == list(resources.LIMITS)
    assert report.complaints(CASES, resources.LIMITS, table, None) == []
    assert report.KEPT.read_text() == report.as_json(table)
    assert report.SHOWN.read_text() == report.as_markdown(table)


def test_the_main_cases_have_every_kernel() -> None:
    assert {case.kernel for i, case in enumerate(CASES) if is_main(i)} == {case.kernel for case in CASES}


def test_a_kernel_of_unaligned_rows_may_spill() -> None:
    case = CASE._replace(may_spill=True)
    assert report.complaints([case], ["sm_90"], table(spilled_bytes=8), None) == []


def test_loads_may_be_narrow_on_some_targets() -> None:
    case = CASE._replace(narrow_on=("gfx950",))
    assert report.complaints([case], ["sm_90"], table(wide_loads=0), None) != []
    found = {"triton": "1", "kernels": {CASE.name: {"gfx950": {**GOOD, "wide_loads": 0}}}}
    assert report.complaints([case], ["gfx950"], found, None) == []


def table(**changed) -> report.Table:
    return {"triton": "1", "kernels": {CASE.name: {"sm_90": {**GOOD, **changed}}}}


def complaints(kept: report.Table | None = None, **changed) -> str:
    found = report.complaints([CASE], ["sm_90"], table(**changed), kept)
    assert all(text.startswith("k, bfloat16 on sm_90 ") for text in found if "was made with" not in text)
    return "; ".join(text.removeprefix("k, bfloat16 on sm_90 ") for text in found)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({}, ""),
        ({"spilled_bytes": 8}, "spills 8 bytes"),
        ({"wide_loads": 0}, "has no 16-byte loads"),
        ({"tensor_core": 0}, "has no tensor-core instructions"),
        ({"loop_communication": 5}, "communicates in its loop (5 shuffles or barriers)"),
        ({"registers": 129}, "takes 129 registers, where 128 are the most"),
        ({"resident_warps": 0}, "fits no multiprocessor"),
    ],
)
def test_what_must_not_be(changed, complaint) -> None:
    assert complaints(**changed) == complaint


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({}, ""),
        ({"registers": 72, "wide_loads": 5, "narrow_loads": 2, "shared": 2048}, ""),
        ({"registers": 73}, "takes 73 registers, was 64"),
        ({"resident_warps": 24}, "has 24 warps resident, was 32"),
        ({"wide_loads": 3, "narrow_loads": 11}, "has 3 wide loads, was 4; has 11 narrow loads, was 3"),
        ({"wide_stores": 1}, "has 1 wide stores, was 2"),
        ({"tensor_core": 8}, "has 8 tensor core, was 16"),
    ],
)
def test_what_got_worse(changed, complaint) -> None:
    assert complaints(table(), **changed) == complaint


def test_a_table_that_does_not_fit_is_to_be_made_again() -> None:
    assert "is not in ahead_of_time.json" in complaints({"triton": "1", "kernels": {}})
    assert "was made with triton 0" in complaints({**table(), "triton": "0"})


def test_a_part_of_the_table_made_again_replaces_what_it_was(monkeypatch) -> None:
    first, second = CASES[0].name, CASES[1].name
    kept = {"triton": "1", "kernels": {"gone": {"sm_90": 1}, second: {"sm_90": 2, "sm_80": 3}}}
    monkeypatch.setattr(report, "load", lambda: kept)
    part = {"triton": "1", "kernels": {second: {"sm_90": 4}, first: {"gfx942": 5}}}
    found = report.updated(part)["kernels"]
    assert list(found.items()) == [(first, {"gfx942": 5}), (second, {"sm_80": 3, "sm_90": 4})]
    with pytest.raises(ValueError, match="make all of it again"):
        report.updated({**part, "triton": "2"})


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "resident"),
    [
        ("sm_90", 32, 8, 0, 64),  # the hardware's limit
        ("sm_90", 64, 8, 32, 32),
        ("sm_90", 65, 8, 0, 24),  # 72 each: 7 warps in a partition, 28 in all, 3 programs of 8
        ("sm_90", 255, 4, 0, 8),
        ("sm_89", 32, 8, 0, 48),
        ("sm_89", 16, 1, 0, 24),  # no more than 24 programs
        ("sm_90", 168, 8, 100 * 1024, 8),
        ("sm_90", 64, 4, 113 * 1024, 8),  # two of 114 KB
        ("sm_90", 64, 4, 114 * 1024, 4),  # the system's share is missing
        ("sm_90", 64, 4, 228 * 1024, 0),
        ("gfx942", 64, 4, 0, 32),
        ("gfx942", 133, 8, 0, 8),  # 136 each: 3 waves in a SIMD, 12 in all, one program of 8
        ("gfx942", 133, 4, 0, 12),
        ("gfx942", 64, 4, 40 * 1024, 4),
    ],
)
def test_occupancy(target, registers, warps, shared, resident) -> None:
    assert resources.occupancy(target, registers, warps, shared) == resident


def test_communication_counts_inside_loops_only() -> None:
    ptx = """
    shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1;
$L__BB0_2:
    ld.global.b32 %r3, [%rd1];
    shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1;
    bar.sync 0;
    @%p1 bra $L__BB0_2;
    bra.uni $L__BB0_9;
    bar.sync 0;
$L__BB0_9:
    """
    assert resources.loop_communication(ptx) == 2


def test_amd_assembly() -> None:
    assembly = """
        global_load_dwordx4 v[2:5], v[0:1], off
        buffer_load_dwordx4 v1, s[4:7], 0 offen lds
        global_load_ushort v6, v[0:1], off
        v_mfma_f32_32x32x8_bf16_1k a[0:15], v[2:3], v[4:5], a[0:15]
        global_store_dwordx4 v[0:1], v[2:5], off
        .private_segment_fixed_size: 12
        .sgpr_spill_count: 7
        .vgpr_count:     70
        .vgpr_spill_count: 2
    """
    assert resources.amd(assembly) == {
        "registers": 70,
        "spilled_bytes": 12,
        "wide_loads": 2,
        "narrow_loads": 1,
        "wide_stores": 1,
        "tensor_core": 1,
    }
