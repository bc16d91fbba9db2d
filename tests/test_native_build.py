"""What setup.py does with the native module when it cannot, may not or must build it. Runs it on a copy of the tree, offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE = "_C" + sysconfig.get_config_var("EXT_SUFFIX")

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
    """``setup.py build_ext`` with nothing of this process's build settings; its files go to ``tree/built``."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "CXXFLAGS", "LDFLAGS", "FASTPREF_BUILD")}
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
    stale = tree / "fastpref" / MODULE
    stale.touch()
    result = build(tree, "--inplace", FASTPREF_BUILD="0", PATH="")
    assert result.returncode == 0
    assert not stale.exists()
    assert "FASTPREF_BUILD=0" in recorded(tree / "fastpref")["reason"]


def test_unknown_mode(tree):
    result = build(tree, FASTPREF_BUILD="yes")
    assert result.returncode != 0
    assert "FASTPREF_BUILD='yes': expected 1" in result.stderr


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
    assert recorded(tree / "fastpref") == {"built": True, "reason": None}
    assert (tree / "fastpref" / MODULE).is_file()
    for unit in (tree / "temp").glob("rows_*.o"):
        lines = subprocess.run(["nm", unit], capture_output=True, text=True, check=True).stdout.splitlines()
        kinds = {line.split()[-1]: line.split()[-2] for line in lines}
        merged = [name for name, kind in kinds.items() if kind in "WV" and "gxx_personality" not in name]
        assert not merged, f"{unit.name}: {merged}"
    again = build(tree, "--inplace", FASTPREF_BUILD="1", CXXFLAGS="-Werror")
    assert "no work to do" in again.stdout
