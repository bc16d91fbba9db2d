"""Compiles ``csrc/cuda`` with the emulator: as a library that stands in for the one that nvcc makes, or into a program."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EMULATOR = Path(__file__).parent
ROOT = EMULATOR.parents[2]
FLAGS = ["-std=c++20", "-DFASTPREF_EMULATED", "-ffp-contract=off", "-fvisibility=hidden", "-g1", "-Wall", "-Wextra"]
FLAGS += ["-Wno-unknown-pragmas"]  # nvcc's unroll


def compiler() -> str | None:
    """The command of a C++20 compiler."""
    return shutil.which("g++") or shutil.which("clang++")


def fingerprint(folders: Sequence[Path], words: Sequence[str]) -> str:
    """Of everything that goes into a build."""
    found = hashlib.sha256(" ".join(words).encode())
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".h", ".cuh", ".cu", ".cpp")):
            found.update(path.relative_to(folder).as_posix().encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:20]


def compile_objects(csrc: Path, sources: Sequence[Path], flags: Sequence[str], folder: Path) -> list[Path]:
    """An object in ``folder`` for each source."""
    command = [str(compiler()), *FLAGS, *flags, "-I", str(EMULATOR), "-I", str(csrc), "-x", "c++", "-c"]

    def one(source: Path) -> Path:
        target = folder / (source.name + ".o")
        done = subprocess.run([*command, str(source), "-o", str(target)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{source.name} did not compile for the emulator:\n{done.stderr[-4000:]}")
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sources))


def emulated_library(csrc: Path = ROOT / "csrc", flags: Sequence[str] = ("-O1",)) -> Path:
    """The library that stands in for the one that nvcc makes; built once for the same sources."""
    name = f"fastpref-emulated-{fingerprint([csrc, EMULATOR], [str(compiler()), *FLAGS, *flags])}"
    target = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}" / "libfastpref_cuda.so"
    if target.exists():
        return target
    target.parent.mkdir(exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        sources = [*sorted((csrc / "cuda").glob("*.cu")), EMULATOR / "control.cpp"]
        objects = compile_objects(csrc, sources, [*flags, "-fPIC"], Path(scratch))
        made = Path(scratch) / target.name
        subprocess.run([str(compiler()), "-shared", *map(str, objects), "-o", str(made)], check=True)
        os.replace(made, target)
    return target
