"""Loading the native backend: what it reports, what it refuses and the reason it gives."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastpref.backends import cpu
from fastpref.backends import native as loading


@pytest.fixture
def built() -> SimpleNamespace:
    try:
        return loading.load_native()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Makes the import of ``fastpref._C`` give this object, or raise it."""

    def install(outcome: object) -> None:
        def import_module(name: str) -> object:
            assert name == "fastpref._C"
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(loading.importlib, "import_module", import_module)

    return install


def test_missing_module_gives_the_recorded_reason(module, monkeypatch, tmp_path):
    record = tmp_path / "_build_info.json"
    record.write_text(json.dumps({"built": False, "reason": "no C++ compiler was found"}))
    monkeypatch.setattr(loading, "BUILD_RECORD", record)
    module(ModuleNotFoundError("No module named 'fastpref._C'"))
    with pytest.raises(ImportError, match=r"not built \(no C\+\+ compiler was found\); rebuild: pip install -e \."):
        cpu.CpuBackend()


@pytest.mark.parametrize("text", [None, "", "{}", '{"built": true, "reason": null}'])
def test_missing_module_without_a_reason(module, monkeypatch, tmp_path, text):
    record = tmp_path / "_build_info.json"
    if text is not None:
        record.write_text(text)
    monkeypatch.setattr(loading, "BUILD_RECORD", record)
    module(ModuleNotFoundError("No module named 'fastpref._C'"))
    with pytest.raises(ImportError, match="nothing is recorded about its build"):
        cpu.CpuBackend()


def test_module_that_does_not_load(module):
    module(ImportError("libgomp.so.1: cannot open shared object file"))
    with pytest.raises(ImportError, match=r"cannot be loaded \(libgomp.so.1.*rebuild"):
        cpu.CpuBackend()


@pytest.mark.parametrize("version", [0, loading.ABI_VERSION - 1, loading.ABI_VERSION + 1, None])
def test_module_of_another_version(module, version):
    module(SimpleNamespace(ABI_VERSION=version) if version is not None else SimpleNamespace())
    with pytest.raises(ImportError, match=rf"ABI version {version}, expected {loading.ABI_VERSION}; rebuild"):
        cpu.CpuBackend()


def test_unknown_instruction_set(built, monkeypatch):
    monkeypatch.setenv("FASTPREF_CPU_ISA", "mmx")
    with pytest.raises(ImportError, match=r"FASTPREF_CPU_ISA='mmx': unknown.*expected one of baseline"):
        cpu.CpuBackend()


def test_instruction_set_that_this_cpu_lacks(module, monkeypatch):
    def set_isa(name: str) -> None:
        raise ValueError(f"this CPU has no {name}")

    module(SimpleNamespace(ABI_VERSION=loading.ABI_VERSION, set_isa=set_isa))
    monkeypatch.setenv("FASTPREF_CPU_ISA", "avx512")
    with pytest.raises(ImportError, match="FASTPREF_CPU_ISA='avx512': this CPU has no avx512"):
        cpu.CpuBackend()


def test_environment_names_the_instruction_set(built, monkeypatch):
    before = built.active_isa()
    try:
        for isa in built.supported_isas():
            monkeypatch.setenv("FASTPREF_CPU_ISA", isa)
            assert cpu.CpuBackend().describe().startswith(isa)
            assert built.active_isa() == isa
    finally:
        built.set_isa(before)


def test_widest_instruction_set_is_the_default(built):
    code = "from fastpref.backends import native; n = native.load_native(); print(n.active_isa(), *n.supported_isas())"
    env = {name: value for name, value in os.environ.items() if name != "FASTPREF_CPU_ISA"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    active, *supported = result.stdout.split()
    assert active == supported[-1]


def test_instruction_sets_agree_with_the_operating_system(built):
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        pytest.skip("no x86 flags in /proc/cpuinfo")
    needs = {
        "baseline": set(),
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
    }
    needs["amx"] = needs["avx512"] | {"amx_bf16", "amx_tile", "avx512_bf16"}
    assert built.supported_isas() == [isa for isa in built.compiled_isas() if needs[isa] <= flags]


def test_one_openmp_runtime(built):
    """The kernels and torch must share their threads."""
    importlib.import_module("fastpref._C")
    try:
        with open("/proc/self/maps") as file:
            mapped = {line.split()[-1] for line in file if "gomp" in line or "libomp" in line}
    except OSError:
        pytest.skip("no /proc/self/maps")
    assert len(mapped) <= 1


def test_no_thread_beyond_those_of_torch(built):
    """Processes at once: one that told torch to use one thread starts no other, one that told it to use two starts one."""
    program = """
import os, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from fastpref.backends import LogitTransform, RowState, load
backend = load("cpu")
logits, targets, ones = torch.randn(64, 5000), torch.zeros(64, dtype=torch.int64), torch.ones(64)
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    state = RowState.start(64, logits.device, torch.float32)
    backend.row_stats(logits, targets, state, col0=0, transform=LogitTransform())
    backend.row_grad(logits, targets, ones, ones, ones, torch.empty_like(logits), col0=0, transform=LogitTransform())
print(len(os.listdir("/proc/self/task")) - before)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("no /proc/self/task")
    threads = (1, 2)
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(n)], stdout=subprocess.PIPE, text=True) for n in threads
    ]
    added = [int(process.communicate(timeout=120)[0]) for process in running]
    assert added == [0, 1 if built.OPENMP else 0]


def test_reasons_why_not(built):
    backend = cpu.CpuBackend()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert backend.why_not(torch.device("cpu"), dtype) is None
    assert "float64" in backend.why_not(torch.device("cpu"), torch.float64)
    assert "'meta'" in backend.why_not(torch.device("meta"), torch.float32)


def test_memory_yardsticks_touch_every_word(built):
    """They stand for the cost of memory in benchmarks, so they must do what they say; the length is no multiple of anything."""
    words = torch.randint(-(2**62), 2**62, (100_003,), generator=torch.Generator().manual_seed(0))
    for threads in (1, 2):
        read = built.stream_read(words=words.data_ptr(), n=words.numel(), threads=threads)
        assert read == int(words.sum()) % 2**64
    inverted = words.clone()
    built.stream_update(words=inverted.data_ptr(), n=words.numel(), threads=2)
    assert torch.equal(inverted, ~words)
