"""Builds the native module ``fastpref._C`` from ``csrc/`` with ninja; everything else about the package is in pyproject.toml.

Torch is not imported: ``csrc`` includes none of its headers. ``FASTPREF_BUILD`` says what a failed build means:

    unset   a warning; the package installs without the native module and ``fastpref doctor`` repeats the reason
    1       an error
    0       nothing is built

``CXX``, ``CXXFLAGS``, ``LDFLAGS`` and ``MAX_JOBS`` are honoured. The compiler must understand GCC's options (GCC or Clang).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
RECORD = Path("fastpref", "_build_info.json")  # read by fastpref/backends/native.py

SOURCES = [
    "csrc/bindings.cpp",
    "csrc/bind_head.cpp",
    "csrc/bind_cuda.cpp",
    "csrc/bind_cuda_rows.cpp",
    "csrc/bind_cuda_preference.cpp",
    "csrc/bind_cuda_linear.cpp",
    "csrc/cpu/kernels.cpp",
    "csrc/cpu/stream.cpp",
    "csrc/cpu/rows_baseline.cpp",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
X86_SOURCES = {
    "csrc/cpu/rows_avx2.cpp": AVX2,
    "csrc/cpu/rows_avx512.cpp": [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}
AMX_SOURCE = "csrc/cpu/head_amx.cpp"
AMX = [*X86_SOURCES["csrc/cpu/rows_avx512.cpp"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
# Never -ffast-math: NaN and inf carry meaning. No silent contraction to fma: where one is wanted it is written.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wshadow",
]

OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
AMX_PROBE = """#include <immintrin.h>
#include <sys/syscall.h>
int main() { _tile_dpbf16ps(0, 1, 2); return (int)SYS_arch_prctl + !sizeof(__m512bh); }
"""


class BuildFailed(Exception):
    """Why the native module could not be built, in one line."""


def find_compiler() -> list[str]:
    """The C++ compiler's command: ``$CXX``, else the first usual name on PATH."""
    if given := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(given[0]) is None:
            raise BuildFailed(f"the C++ compiler CXX={given[0]!r} was not found")
        return given
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildFailed("no C++ compiler was found (looked for c++, g++ and clang++; CXX names another)")


def find_ninja() -> str:
    """The ninja program: on PATH (where an isolated build finds its own), else in the ninja package."""
    found = shutil.which("ninja")
    if found is None:
        try:
            import ninja

            found = shutil.which("ninja", path=ninja.BIN_DIR)
        except (ImportError, OSError):  # the package may be there without its program
            pass
    if found is None:
        raise BuildFailed("ninja was not found (pip install ninja)")
    return found


def include_dirs() -> list[str]:
    """Where Python's and pybind11's headers are."""
    try:
        import pybind11
    except ImportError:
        raise BuildFailed("pybind11 is not installed (pip install pybind11)") from None
    python = sysconfig.get_path("include")
    if not Path(python, "Python.h").is_file():
        raise BuildFailed(f"Python's headers are not installed (no Python.h in {python})")
    return [python, pybind11.get_include()]


def compiles(compiler: list[str], flags: list[str], program: str, scratch: Path) -> bool:
    """Whether the compiler takes these flags and makes this program."""
    probe = scratch / "probe.cpp"
    probe.write_text(program)
    command = [*compiler, *flags, str(probe), "-o", str(probe.with_suffix(".out"))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def openmp_flags(compiler: list[str], scratch: Path) -> list[str]:
    """``-fopenmp`` where the compiler has it; the kernels run on one thread otherwise."""
    return ["-fopenmp"] if compiles(compiler, ["-fopenmp"], OPENMP_PROBE, scratch) else []


def escape(path: str | Path) -> str:
    """A path in a ninja build line."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def command_line(words: list[str]) -> str:
    """Words of a shell command as the value of a ninja variable."""
    return shlex.join(words).replace("$", "$$")


def ninja_file(compiler: list[str], openmp: list[str], includes: list[str], scratch: Path, target: Path) -> str:
    """The text of build.ninja: one object per source, each with its own instruction set, then the module."""
    sources: dict[str, list[str]] = {source: [] for source in SOURCES}
    defines = []
    if sysconfig.get_platform().endswith(("x86_64", "amd64")) and sys.maxsize > 2**32:
        sources |= X86_SOURCES
        defines.append("-DFASTPREF_X86")
        if compiles(compiler, AMX, AMX_PROBE, scratch):
            sources[AMX_SOURCE] = AMX
            defines.append("-DFASTPREF_AMX")
    flags = [
        *FLAGS,
        *openmp,
        *defines,
        *(f"-isystem{d}" for d in includes),
        *shlex.split(os.environ.get("CXXFLAGS", "")),
    ]
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    link = [*shared, *openmp, *shlex.split(os.environ.get("LDFLAGS", ""))]
    lines = [
        f"cxx = {command_line(compiler)}",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx $in -o $out {command_line(link)}",
    ]
    objects = []
    for source, isa in sources.items():
        objects.append(escape(scratch / Path(source).with_suffix(".o").name))
        lines += [f"build {objects[-1]}: compile {escape(ROOT / source)}", f"  flags = {command_line([*flags, *isa])}"]
    lines += [f"build {escape(target)}: link {' '.join(objects)}", f"default {escape(target)}", ""]
    return "\n".join(lines)


def build_native(scratch: Path, target: Path) -> None:
    """Compiles ``csrc`` into ``target``; ``BuildFailed`` says why not."""
    if sys.platform == "win32":
        raise BuildFailed("Windows is not supported")
    compiler, ninja, includes = find_compiler(), find_ninja(), include_dirs()
    scratch.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    (scratch / "build.ninja").write_text(
        ninja_file(compiler, openmp_flags(compiler, scratch), includes, scratch, target)
    )
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    result = subprocess.run([ninja, "-C", str(scratch), *jobs], capture_output=True, text=True, check=False)
    print(result.stdout + result.stderr)
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if "error" in line.lower()]
        raise BuildFailed(f"compilation with {compiler[0]} failed: {(errors or ['see the build log'])[0].strip()}")


class BuildNative(build_ext):
    """``build_ext`` with ninja, which leaves a record of the outcome beside the package's modules."""

    def build_extensions(self) -> None:
        """Build the module and write the record; a failure is fatal only with ``FASTPREF_BUILD=1``."""
        mode = os.environ.get("FASTPREF_BUILD", "")
        if mode not in ("", "0", "1"):
            raise CompileError(f"FASTPREF_BUILD={mode!r}: expected 1 (must build), 0 (do not build) or nothing")
        (extension,) = self.extensions
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        reason = None
        try:
            if mode == "0":
                raise BuildFailed("skipped, because FASTPREF_BUILD=0 was set at installation")
            build_native(Path(self.build_temp).resolve(), target)
        except (BuildFailed, OSError) as error:
            reason = str(error)
            target.unlink(missing_ok=True)
            if mode == "1":
                raise CompileError(f"FASTPREF_BUILD=1 and fastpref._C was not built: {reason}") from None
            print(f"warning: fastpref installs without its native module: {reason}", file=sys.stderr)
        record = Path(self.build_lib, RECORD)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"built": reason is None, "reason": reason}) + "\n")

    def _products(self) -> list[tuple[str, str]]:
        """What was built, as pairs of its place in the build folder and its place in the source tree."""
        package = self.get_finalized_command("build_py").get_package_dir("fastpref")
        names = [self.get_ext_filename(extension.name) for extension in self.extensions] + [str(RECORD)]
        return [(os.path.join(self.build_lib, n), os.path.join(package, os.path.basename(n))) for n in names]

    def copy_extensions_to_source(self) -> None:
        """Put the module and the record into the source tree, for editable installs and ``--inplace``."""
        for built, in_source in self._products():
            if os.path.exists(built):
                self.copy_file(built, in_source, level=self.verbose)
            else:  # a module of an earlier build would hide that this one failed
                Path(in_source).unlink(missing_ok=True)

    def get_outputs(self) -> list[str]:
        """Files in the build folder."""
        return [built for built, _ in self._products() if os.path.exists(built)]

    def get_output_mapping(self) -> dict[str, str]:
        """Those files and, for an editable install, where they are in the source tree."""
        return {built: source for built, source in self._products() if os.path.exists(built)} if self.inplace else {}


setup(
    ext_modules=[Extension("fastpref._C", [*SOURCES, *X86_SOURCES, AMX_SOURCE])],
    cmdclass={"build_ext": BuildNative},
)
