"""What setup.py does with the native module and the CUDA library when it cannot, may not or must build them. Runs it on a copy of the tree, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
LIBRARY = "libfastpref_cuda.so"
SETTINGS = ("CXX", "CXXFLAGS", "LDFLAGS", "FASTPREF_BUILD", "FASTPREF_CUDA_ARCHITECTURES", "CUDA_HOME", "CUDA_PATH")
CUDA_SKIPPED = {"built": False, "reason": "skipped, because FASTPREF_CUDA=0 was set at installation"}

if not (ROOT / "setup.py").is_file() or not (ROOT / "csrc").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that building needs."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "fastpref").mkdir()
    return tmp_path


def build(tree: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``setup.py build_ext`` with nothing of this process's build settings, and without CUDA unless asked; its files go to ``tree/built``."""
    inherited = {k: v for k, v in os.environ.items() if k not in SETTINGS} | {"FASTPREF_CUDA": "0"}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "built", "--build-temp", "temp", *options]
    return subprocess.run(
        command, cwd=tree, env=inherited | environment, capture_output=True, text=True, timeout=300, check=False
    )


def recorded(folder: Path) -> dict[str, object]:
    return json.loads((folder / "_build_info.json").read_text())


def test_missing_compiler_is_fatal_when_asked_for(tree):
    result = build(tree, FASTPREF_BUILD="1", CXX="/nonexistent/c++")
    assert result.returncode != 0
    assert "FASTPREF_BUILD=1 and fastpref._C was not built: the C++ compiler CXX='/nonexistent/c++' was not found" in (
        result.stderr
    )
    assert "Traceback" not in result.stderr


def test_missing_compiler_is_recorded_otherwise(tree):
    result = build(tree, CXX="/nonexistent/c++")
    assert result.returncode == 0
    assert "warning: fastpref installs without its native module" in result.stderr
    assert recorded(tree / "built/fastpref") == {
        "built": False,
        "reason": "the C++ compiler CXX='/nonexistent/c++' was not found",
        "cuda": CUDA_SKIPPED,
    }


def test_empty_path(tree):
    result = build(tree, PATH="")
    assert result.returncode == 0
    assert recorded(tree / "built/fastpref")["reason"].startswith("no C++ compiler was found")


def test_failing_compiler(tree):
    compiler = tree / "broken c++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: out of ideas'; exit 1\n")
    compiler.chmod(0o755)
    result = build(tree, CXX=f"'{compiler}'")
    assert result.returncode == 0
    assert recorded(tree / "built/fastpref")["reason"] == (
        f"compilation with {compiler} failed: x.cpp:1: error: out of ideas"
    )
    assert build(tree, CXX=f"'{compiler}'", FASTPREF_BUILD="1").returncode != 0


def test_skipping(tree):
    """Nothing is looked for, and a module of an earlier build does not stay behind to be loaded."""
    stale = [tree / "fastpref" / name for name in (MODULE, LIBRARY)]
    for path in stale:
        path.touch()
    result = build(tree, "--inplace", FASTPREF_BUILD="0", FASTPREF_CUDA="", PATH="")
    assert result.returncode == 0
    assert not any(path.exists() for path in stale)
    record = recorded(tree / "fastpref")
    assert record["reason"] == "skipped, because FASTPREF_BUILD=0 was set at installation"
    assert record["cuda"]["reason"] == f"fastpref._C, which loads them, was not built: {record['reason']}"


@pytest.mark.parametrize("variable", ["FASTPREF_BUILD", "FASTPREF_CUDA"])
def test_unknown_mode(tree, variable):
    result = build(tree, **{variable: "yes"})
    assert result.returncode != 0
    assert f"{variable}='yes': expected 1" in result.stderr


def test_torch_is_not_imported(tree):
    """An isolated build has no torch; importing it would fail there and, worse, fetch it if it were required."""
    blocker = tree / "blocker"
    blocker.mkdir()
    (blocker / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    result = build(tree, FASTPREF_BUILD="0", PYTHONPATH=str(blocker))
    assert result.returncode == 0, result.stderr
    for source in (tree / "csrc").rglob("*.[ch]*"):
        text = source.read_text()
        assert "#include <torch" not in text, source
        assert "#include <ATen" not in text, source


@pytest.mark.slow
def test_whole_build(tree):
    """No warnings; and no code of one instruction set that the linker could merge with another's."""
    result = build(tree, "--inplace", FASTPREF_BUILD="1", CXXFLAGS="-Werror")
    assert result.returncode == 0, result.stdout + result.stderr
    assert recorded(tree / "fastpref") == {"built": True, "reason": None, "cuda": CUDA_SKIPPED}
    assert (tree / "fastpref" / MODULE).is_file()
    for unit in (tree / "temp").glob("rows_*.o"):
        lines = subprocess.run(["nm", unit], capture_output=True, text=True, check=True).stdout.splitlines()
        kinds = {line.split()[-1]: line.split()[-2] for line in lines}
        merged = [name for name, kind in kinds.items() if kind in "WV" and "gxx_personality" not in name]
        assert not merged, f"{unit.name}: {merged}"
    again = build(tree, "--inplace", FASTPREF_BUILD="1", CXXFLAGS="-Werror")
    assert "no work to do" in again.stdout


TOUCHES_ITS_OUTPUT = """
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then touch "$2"; fi
  shift
done
"""
LISTS_CODES = (
    "if [ \"$1\" = --list-gpu-code ]; then printf 'sm_75\\nsm_80\\nsm_86\\nsm_90\\nsm_100\\nsm_121\\n'; exit; fi\n"
)
NVCC_FAILS = 'echo "rows.cu(7): error: no such thing"; exit 1\n'


def program(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def cuda_tree(tree: Path):
    """Builds the tree with compilers that only pretend, and with an nvcc of this text in ``CUDA_HOME``."""
    compiler = program(tree / "pretends/c++", TOUCHES_ITS_OUTPUT)

    def build_with(nvcc: str | None, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        home = tree / "cuda home"
        if nvcc is not None:
            home.mkdir(exist_ok=True)
            program(home / "bin/nvcc", nvcc)
        pretended = {"CXX": compiler, "FASTPREF_CUDA": "", "CUDA_HOME": str(home)}
        return build(tree, *options, **pretended | environment)

    build_with.tree = tree
    return build_with


def compiled_for(tree: Path) -> set[str]:
    """The codes in the commands of the sources."""
    return set(re.findall(r"-gencode=\S*code=(\w+)", (tree / "temp/cuda/build.ninja").read_text()))


def test_a_failing_nvcc_leaves_the_module(cuda_tree):
    result = cuda_tree(LISTS_CODES + NVCC_FAILS)
    assert result.returncode == 0, result.stderr
    assert "warning: fastpref installs without its CUDA kernels: compilation with" in result.stderr
    built = cuda_tree.tree / "built/fastpref"
    assert (built / MODULE).is_file()
    assert not (built / LIBRARY).exists()
    record = recorded(built)
    assert (record["built"], record["reason"]) == (True, None)
    assert record["cuda"]["built"] is False
    assert record["cuda"]["reason"].endswith("cuda home/bin/nvcc failed: rows.cu(7): error: no such thing")


def test_a_failing_nvcc_is_fatal_when_asked_for(cuda_tree):
    result = cuda_tree(LISTS_CODES + NVCC_FAILS, FASTPREF_CUDA="1")
    assert result.returncode != 0
    assert "FASTPREF_CUDA=1 and the CUDA kernels were not built: compilation with" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_nvcc_is_told_in_the_record_alone(cuda_tree):
    result = cuda_tree(None)
    assert result.returncode == 0
    assert "warning" not in result.stderr
    reason = recorded(cuda_tree.tree / "built/fastpref")["cuda"]["reason"]
    assert reason == f"CUDA_HOME={str(cuda_tree.tree / 'cuda home')!r} has no bin/nvcc"
    result = cuda_tree(None, FASTPREF_CUDA="1")
    assert result.returncode != 0
    assert "FASTPREF_CUDA=1 and the CUDA kernels were not built: CUDA_HOME=" in result.stderr


def test_cuda_is_not_looked_for_when_it_is_skipped(cuda_tree):
    result = cuda_tree("touch $0.called; exit 1\n", FASTPREF_CUDA="0")
    assert result.returncode == 0
    assert recorded(cuda_tree.tree / "built/fastpref") == {"built": True, "reason": None, "cuda": CUDA_SKIPPED}
    assert not (cuda_tree.tree / "cuda home/bin/nvcc.called").exists()


def test_without_the_module_there_is_no_library(cuda_tree):
    result = cuda_tree(LISTS_CODES + NVCC_FAILS, CXX="/nonexistent/c++")
    assert result.returncode == 0
    reason = recorded(cuda_tree.tree / "built/fastpref")["cuda"]["reason"]
    assert reason.startswith("fastpref._C, which loads them, was not built: the C++ compiler")
    assert cuda_tree(LISTS_CODES + NVCC_FAILS, FASTPREF_BUILD="0", FASTPREF_CUDA="1").returncode != 0


def test_the_architectures_are_those_of_ours_that_nvcc_knows(cuda_tree):
    result = cuda_tree(LISTS_CODES + TOUCHES_ITS_OUTPUT, "--inplace")
    assert result.returncode == 0, result.stderr
    package = cuda_tree.tree / "fastpref"
    assert (package / LIBRARY).is_file()
    assert recorded(package)["cuda"] == {"built": True, "reason": None, "architectures": ["80", "86", "90", "100"]}
    assert compiled_for(cuda_tree.tree) == {"sm_80", "sm_86", "sm_90", "sm_100", "compute_100"}
    commands = (cuda_tree.tree / "temp/cuda/build.ninja").read_text()
    assert commands.count("FASTPREF_CUDA_ARCHITECTURES=") == 1
    assert "'-DFASTPREF_CUDA_ARCHITECTURES=\"sm_80 sm_86 sm_90 sm_100 compute_100\"'" in commands
    for source in (cuda_tree.tree / "csrc/cuda").glob("*.cu"):
        assert f"{source.name}.o: compile" in commands
    assert "no work to do" in cuda_tree(LISTS_CODES + TOUCHES_ITS_OUTPUT, "--inplace").stdout


@pytest.mark.parametrize("names", ["100;9.0", "sm_90, sm_100", "100 90 90"])
def test_architectures_that_were_asked_for(cuda_tree, names):
    result = cuda_tree(LISTS_CODES + TOUCHES_ITS_OUTPUT, FASTPREF_CUDA="1", FASTPREF_CUDA_ARCHITECTURES=names)
    assert result.returncode == 0, result.stderr
    assert compiled_for(cuda_tree.tree) == {"sm_90", "sm_100", "compute_100"}
    assert recorded(cuda_tree.tree / "built/fastpref")["cuda"]["architectures"] == ["90", "100"]


def test_architectures_that_cannot_be_compiled_for(cuda_tree):
    """What nvcc does not know, and what is older than the kernels bear."""
    result = cuda_tree(LISTS_CODES + TOUCHES_ITS_OUTPUT, FASTPREF_CUDA_ARCHITECTURES="75;80")
    assert result.returncode == 0
    reason = recorded(cuda_tree.tree / "built/fastpref")["cuda"]["reason"]
    assert reason == "FASTPREF_CUDA_ARCHITECTURES names 75; this nvcc compiles for 80 86 90 100 121"
    result = cuda_tree("exit 1\n")
    assert "--list-gpu-code failed" in recorded(cuda_tree.tree / "built/fastpref")["cuda"]["reason"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_the_library_of_a_real_nvcc(cuda_tree):
    """Loads with nothing but libc, exports one function, and is not made again for nothing."""
    options = {"FASTPREF_CUDA": "1", "FASTPREF_CUDA_ARCHITECTURES": "90", "CUDA_HOME": ""}
    result = cuda_tree(None, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    library = cuda_tree.tree / "built/fastpref" / LIBRARY
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["fastpref_cuda_api"]
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "cudart" not in needed
    assert "warning" not in result.stdout
    assert cuda_tree(None, **options).stdout.count("no work to do") == 2
