"""Compiles ``csrc/cuda`` with the emulator: as a library that stands in for the one that nvcc makes, or into a program under a sanitizer."""

from __future__ import annotations

import functools
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
FLAGS = [
    "-std=c++20",
    "-DFASTPREF_EMULATED",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-g1",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]


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


SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
"""What each kind of program is compiled with: a sanitizer needs a program of its own, and memory of exact sizes."""

FOUND_BY_SANITIZER = 66
"""The exit code of a program in which a sanitizer found something."""


@functools.cache
def emulated_program(main: str, kind: str, csrc: Path = ROOT / "csrc", with_kernels: bool = True) -> Path:
    """A program of this folder under a sanitizer, with the kernels or with its own alone; built once for the same sources."""
    flags = ["-O1", *SANITIZERS[kind]]
    name = f"fastpref-emulated-{fingerprint([csrc, EMULATOR], [str(compiler()), *FLAGS, *flags, main])}"
    target = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}" / Path(main).stem
    if target.exists():
        return target
    target.parent.mkdir(exist_ok=True, mode=0o700)
    kernels = sorted((csrc / "cuda").glob("*.cu")) if with_kernels else []
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        objects = compile_objects(csrc, [EMULATOR / main, *kernels], flags, Path(scratch))
        made = Path(scratch) / target.name
        subprocess.run([str(compiler()), *flags, *map(str, objects), "-o", str(made)], check=True)
        os.replace(made, target)
    return target


def run_program(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a program that :func:`emulated_program` made."""
    options = f"halt_on_error=1:exitcode={FOUND_BY_SANITIZER}"
    environment = os.environ | {f"{name}_OPTIONS": options for name in ("ASAN", "TSAN", "UBSAN")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)

    done = run(str(program), *arguments)
    if "unexpected memory mapping" in done.stderr and (setarch := shutil.which("setarch")):
        done = run(setarch, "-R", str(program), *arguments)  # addresses as this sanitizer expects them
    return done


@functools.cache
def why_not_sanitized(kind: str) -> str | None:
    """Why programs of this kind cannot be made and run here."""
    if compiler() is None:
        return "no C++ compiler"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "probe.cpp"
        source.write_text("int main() {}\n")
        made = subprocess.run(
            [str(compiler()), *SANITIZERS[kind], str(source), "-o", f"{scratch}/probe"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            return f"the compiler has no {kind} sanitizer: {made.stderr.strip().splitlines()[-1]}"
        if (done := run_program(Path(scratch) / "probe")).returncode != 0:
            return f"programs with the {kind} sanitizer do not run here: {(done.stderr.strip() or '?').splitlines()[0]}"
    return None
