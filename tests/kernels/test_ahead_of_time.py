"""The row kernels as ``TritonBackend`` launches them, compiled for GPUs that are not here (see ``ahead_of_time``)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("ahead_of_time.py")
VERSION = "3.9.0"  # the version whose driver interface the program stands in for


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, int]]]:
    if triton.__version__ != VERSION:
        pytest.skip(f"the stand-in driver is written for triton {VERSION}, found {triton.__version__}")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    if missing := [name for name in ("ptxas", "cuobjdump") if not (tools / name).exists()]:
        pytest.skip(f"this triton ships without {', '.join(missing)}")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))  # compile, whatever was compiled before
    run = subprocess.run([sys.executable, str(PROGRAM)], env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "FP_FUSION" not in run.stderr
    return json.loads(run.stdout)


def test_compile_without_spills(reports) -> None:
    assert {case.split("|")[0] for case in reports} == {"sm_80", "sm_90", "gfx942"}
    for case, kernels in reports.items():
        divergence = set() if "log_sum_sq_probs" in case else {"row_cross", "row_kl_grad"}
        assert set(kernels) == {"row_stats", "row_grad"} | divergence, case
        for name, report in kernels.items():
            assert report["spilled_bytes"] == 0, (case, name)
            if case.startswith("sm_"):
                # Up to 85, 3 programs of 256 threads fit a multiprocessor: 24 KB of loads in flight or more. It is 2 with every
                # statistic asked for, and where two chunks are turned into a gradient.
                limit = 128 if "entropy" in case or name == "row_kl_grad" else 85
                assert report["registers"] <= limit, (case, name)


def test_contiguous_aligned_rows_use_16_byte_accesses(reports) -> None:
    for case, kernels in reports.items():
        if "long_rows" in case:
            assert kernels["row_stats"]["wide_loads"] == (2 if "entropy" in case else 4), case
            assert kernels["row_grad"]["wide_loads"] == 2, case
            assert kernels["row_grad"]["wide_stores"] == 2 * 2, case  # gradients, and the zeros of silent rows
            if "row_cross" in kernels:
                assert kernels["row_cross"]["wide_loads"] == kernels["row_kl_grad"]["wide_loads"] == 2 * 2, case


def test_the_loop_over_a_row_has_no_communication(reports) -> None:
    for case, kernels in reports.items():
        if case.startswith("sm_"):
            for name in {"row_stats", "row_cross"} & set(kernels):
                assert kernels[name]["loop_communication"] == 0, case
