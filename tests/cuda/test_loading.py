"""The library of CUDA kernels: when it loads, why not, what it says it was compiled for, and what a call says where there is no GPU."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastpref import backends
from fastpref.backends import cuda, native

from ..emulation.cuda.building import compiler

ROOT = Path(__file__).parents[2]
needs_library = pytest.mark.skipif(not cuda.LIBRARY.exists(), reason=f"not built: {native.why_not_built('cuda')}")


def loaded(**environment: str) -> str:
    """What a process of its own says of the backend: this one keeps what it has."""
    code = "from fastpref import backends as b; x = b.load('cuda'); print(x if isinstance(x, str) else 'loaded: ' + x.describe())"
    clean = {k: v for k, v in os.environ.items() if k != "FASTPREF_CUDA_LIBRARY"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def backend(architectures: str, emulated: bool = False) -> cuda.CudaBackend:
    made = object.__new__(cuda.CudaBackend)
    made._architectures, made._emulated = architectures, emulated
    return made


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), "sm_80 sm_90", True),
        ((8, 0), "sm_86 sm_90", False),
        ((8, 7), "sm_86 sm_90", True),  # of the same major number, and later
        ((9, 0), "sm_80", False),
        ((12, 1), "sm_120 compute_120", True),
        ((10, 3), "sm_100", True),
        ((10, 0), "sm_103", False),
        ((11, 0), "sm_80 sm_100 sm_120 compute_120", False),  # the PTX is newer than the GPU
        ((11, 0), "sm_80 compute_90", True),
        ((13, 0), "sm_80 compute_120", True),
        ((7, 5), "sm_80 compute_80", False),
        ((9, 0), "sm_90a", True),
        ((9, 1), "sm_90a compute_90a", False),  # code with a feature set is for one GPU
        ((9, 0), "", False),
    ],
)
def test_what_a_gpu_can_run(capability, architectures, runs) -> None:
    assert cuda.covered(capability, architectures) is runs


def test_gpus_that_are_not_covered(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "_capability", lambda device: (8, 6))
    reason = backend("sm_90 compute_90").why_not(torch.device("cuda"), torch.float32)
    assert reason.startswith(
        "the CUDA kernels were compiled for sm_90 compute_90, found a GPU of compute capability 8.6"
    )
    assert "FASTPREF_CUDA_ARCHITECTURES=86" in reason
    monkeypatch.setattr(cuda, "_capability", lambda device: (7, 5))  # no build helps
    reason = backend("sm_90 compute_90").why_not(torch.device("cuda"), torch.float32)
    assert reason == "the CUDA kernels need a GPU of compute capability 8.0 or newer, found 7.5"
    monkeypatch.setattr(cuda, "_capability", lambda device: (8, 9))
    assert backend("sm_80 compute_80").why_not(torch.device("cuda", 1), torch.bfloat16) is None


def test_the_capability_is_asked_for_once_a_device(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(cuda, "_capabilities", {})
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device.index) or (9, device.index)
    )
    devices = [torch.device("cuda", i) for i in (0, 1, 0, 1)]
    assert [cuda._capability(device) for device in devices] == [(9, 0), (9, 1)] * 2
    assert asked == [0, 1]


def test_amd_gpus_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "ROCm" in backend("sm_80").why_not(torch.device("cuda"), torch.float32)


def test_devices_and_dtypes() -> None:
    real, emulated = backend("sm_80 compute_80"), backend("", emulated=True)
    assert "found device 'cpu'" in real.why_not(torch.device("cpu"), torch.float32)
    assert "found device 'cuda'" in emulated.why_not(torch.device("cuda"), torch.float32)
    assert emulated.why_not(torch.device("cpu"), torch.float16) is None
    assert "found torch.float64" in emulated.why_not(torch.device("cpu"), torch.float64)


def test_a_library_that_was_not_built(monkeypatch, tmp_path) -> None:
    record = tmp_path / "_build_info.json"
    monkeypatch.setattr(native, "BUILD_RECORD", record)
    monkeypatch.setattr(cuda, "LIBRARY", tmp_path / "libfastpref_cuda.so")
    monkeypatch.delenv("FASTPREF_CUDA_LIBRARY", raising=False)
    with pytest.raises(ImportError, match=r"are not built \(nothing is recorded about its build\); rebuild: pip"):
        cuda.CudaBackend()
    record.write_text(
        json.dumps({"built": True, "reason": None, "cuda": {"built": False, "reason": "nvcc was not found"}})
    )
    with pytest.raises(ImportError, match=r"are not built \(nvcc was not found\)"):
        cuda.CudaBackend()
    record.write_text(json.dumps({"built": True, "reason": None}))  # of a version that had no such kernels
    with pytest.raises(ImportError, match="nothing is recorded"):
        cuda.CudaBackend()


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_libraries_of_something_else(tmp_path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library\n")
    assert "the CUDA kernels cannot be loaded (" in loaded(FASTPREF_CUDA_LIBRARY=str(text))
    assert "No such file" in loaded(FASTPREF_CUDA_LIBRARY=str(tmp_path / "none.so"))

    def build(name: str, source: str) -> str:
        (tmp_path / "x.cpp").write_text(source)
        command = [
            compiler(),
            "-shared",
            "-fPIC",
            f"-I{ROOT / 'csrc'}",
            str(tmp_path / "x.cpp"),
            "-o",
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True)
        return loaded(FASTPREF_CUDA_LIBRARY=str(tmp_path / name))

    assert "exports no fastpref_cuda_api" in build("other.so", "int x;\n")
    old = (
        '#include "cuda/api.h"\nextern "C" const fastpref::CudaApi* fastpref_cuda_api() {\n'
        '  static const fastpref::CudaApi api = {999, false, "", nullptr, nullptr, nullptr};\n  return &api;\n}\n'
    )
    found = build("old.so", old)
    assert "has version 999 of the CUDA interface, expected" in found
    assert "rebuild: pip install" in found


@needs_library
def test_the_library_loads_without_a_gpu() -> None:
    record = json.loads(native.BUILD_RECORD.read_text())["cuda"]
    names = [f"sm_{name}" for name in record["architectures"]]
    expected = " ".join([*names, f"compute_{record['architectures'][-1]}"])
    assert loaded() == f"loaded: compiled for {expected}"


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_doctor_tells_what_it_was_compiled_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastpref", "doctor"],
        env={k: v for k, v in os.environ.items() if k != "FASTPREF_CUDA_LIBRARY"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["cuda"]]
    assert "not active: the CUDA kernels run on NVIDIA GPUs, found device 'cpu' (compiled for sm_" in line


def test_a_named_backend_is_refused_with_the_reason() -> None:
    """Whether it is built or not."""
    if isinstance(backends.load("cuda"), str) or not backends.load("cuda")._emulated:
        with pytest.raises(ValueError, match="backend='cuda' cannot be used: the CUDA kernels"):
            backends.select("cuda", torch.device("cpu"), torch.float32)


CALLS = """
import torch
from fastpref.backends import LogitTransform, RowState
from fastpref.backends.cuda import CudaBackend

backend = CudaBackend()
backend.where = lambda tensor: {"device": 0, "stream": 0, "multiprocessors": 1}
logits, targets, zeros = torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), torch.zeros(2)
options = {"col0": 0, "transform": LogitTransform()}
for call in (
    lambda: backend.row_stats(logits, targets, RowState.start(2, logits.device, torch.float32), **options),
    lambda: backend.row_grad(logits, targets, zeros, zeros, zeros, logits, **options),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_call_of_the_library_without_a_gpu_says_so() -> None:
    clean = {k: v for k, v in os.environ.items() if k != "FASTPREF_CUDA_LIBRARY"}
    run = subprocess.run([sys.executable, "-c", CALLS], env=clean, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(
            "the CUDA kernels need an NVIDIA GPU and a driver for it; the choice of the device failed: cudaError"
        )


PROBE = r"""
#include "cuda/launch.h"
namespace fastpref {
FASTPREF_KERNEL(32, 1) void probe(float* x) { store(x + threadIdx.x, 1.0f); }
}
extern "C" __attribute__((visibility("default"))) fastpref::CudaStatus probe_on(int number) {
  const fastpref::CudaLaunch where = {number, nullptr, 1};
  fastpref::OnDevice device(where);
  if (device.ok()) {
    FASTPREF_LAUNCH(fastpref::probe, 1, 32, 0, where.stream, nullptr);
    device.launched("probe");
  }
  return device.status();
}
"""


class Status(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), *((name, ctypes.c_char_p) for name in ("kernel", "name", "text"))]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_launch_without_a_gpu_says_so(tmp_path) -> None:
    """What every launcher does first, compiled as the library is."""
    (tmp_path / "probe.cu").write_text(PROBE)
    command = ["nvcc", "-std=c++17", "-shared", "-cudart", "static", "-Xcompiler", "-fPIC", "-arch=sm_90"]
    subprocess.run([*command, f"-I{ROOT / 'csrc'}", "probe.cu", "-o", "probe.so"], cwd=tmp_path, check=True)
    probe_on = ctypes.CDLL(str(tmp_path / "probe.so")).probe_on
    probe_on.restype = Status
    status = probe_on(0)
    assert status.code in (35, 100)
    assert status.name in (b"cudaErrorInsufficientDriver", b"cudaErrorNoDevice")
    assert status.kernel == b"the choice of the device"
    assert len(status.text) > 10
