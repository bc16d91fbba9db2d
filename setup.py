"""Builds the native module ``fastpref._C`` from ``csrc/`` with ninja; everything else about the package is in pyproject.toml.

Torch is not imported: ``csrc`` includes none of its headers. ``FASTPREF_BUILD`` says what a failed build means:

    unset   a warning; the package installs without the native module and ``fastpref doctor`` repeats the reason
    1       an error
    0       nothing is built

The CUDA kernels, ``csrc/cuda``, are a library of their own, which the module loads when it is asked for them. ``FASTPREF_CUDA`` says the same of it;
when it is unset and there is no nvcc, it is not built and there is no warning. nvcc is that of ``CUDA_HOME`` or ``CUDA_PATH``, else the one on PATH,
else that of /usr/local/cuda. ``FASTPREF_CUDA_ARCHITECTURES`` names what to compile for, such as ``"90;100"``.

``CXX``, ``CXXFLAGS``, ``LDFLAGS``, ``NVCC_CCBIN``, ``NVCC_APPEND_FLAGS`` and ``MAX_JOBS`` are honoured. The compiler must understand GCC's options
(GCC or Clang).
"""

from __future__ import annotations

import json
import os
import re
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
    "csrc/cpu/preference.cpp",
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

CUDA_FOLDER = Path("csrc", "cuda")
CUDA_LIBRARY = Path("fastpref", "libfastpref_cuda.so")  # loaded by fastpref/backends/cuda.py
# Each runs on GPUs of its major number from its minor one on. The newest one's PTX is for GPUs that are newer than all of them.
CUDA_ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
CUDA_FLAGS = ["-std=c++17", "-O3", "--compiler-options", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]

OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
AMX_PROBE = """#include <immintrin.h>
#include <sys/syscall.h>
int main() { _tile_dpbf16ps(0, 1, 2); return (int)SYS_arch_prctl + !sizeof(__m512bh); }
"""


class BuildFailed(Exception):
    """Why something could not be built, in one line."""


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
    libraries = ["-ldl"] if sys.platform == "linux" else []  # dlopen, where it is not in libc
    link = [*shared, *openmp, *shlex.split(os.environ.get("LDFLAGS", "")), *libraries]
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


def run_ninja(ninja: str, scratch: Path, text: str, compiler: str) -> None:
    """Make what this build.ninja says, in ``scratch``."""
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "build.ninja").write_text(text)
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    result = subprocess.run([ninja, "-C", str(scratch), *jobs], capture_output=True, text=True, check=False)
    print(result.stdout + result.stderr)
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if re.search(r"\b(?:error|fatal)\b", line, re.IGNORECASE)]
        raise BuildFailed(f"compilation with {compiler} failed: {(errors or ['see the build log'])[0].strip()}")


def build_native(scratch: Path, target: Path) -> None:
    """Compiles ``csrc`` into ``target``; ``BuildFailed`` says why not."""
    if sys.platform == "win32":
        raise BuildFailed("Windows is not supported")
    compiler, ninja, includes = find_compiler(), find_ninja(), include_dirs()
    scratch.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = ninja_file(compiler, openmp_flags(compiler, scratch), includes, scratch, target)
    run_ninja(ninja, scratch, text, compiler[0])


def find_nvcc() -> str:
    """The CUDA compiler: where an environment variable points, on PATH, or in the usual place."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            if found := shutil.which("nvcc", path=os.path.join(home, "bin")):
                return found
            raise BuildFailed(f"{variable}={home!r} has no bin/nvcc")
    if found := shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"):
        return found
    raise BuildFailed("nvcc was not found (looked on PATH and in /usr/local/cuda; CUDA_HOME names another place)")


def cuda_architectures(nvcc: str) -> list[str]:
    """Compute capabilities to compile for, such as ``90``: those asked for, else those of ours that this nvcc has; ascending."""
    result = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False)
    # Older GPUs lack what the kernels use: asynchronous copies, and matrices of bfloat16.
    known = [name for name in re.findall(r"\bsm_(\w+)", result.stdout) if int(re.match(r"\d+", name)[0]) >= 80]
    if result.returncode != 0 or not known:
        raise BuildFailed(f"{nvcc} --list-gpu-code failed: a CUDA toolkit of version 11.8 or newer is needed")
    if asked := re.findall(r"[^\s;,]+", os.environ.get("FASTPREF_CUDA_ARCHITECTURES", "")):
        chosen = [name.lower().removeprefix("sm_").replace(".", "") for name in asked]
        if unknown := [name for name, plain in zip(asked, chosen, strict=True) if plain not in known]:
            raise BuildFailed(
                f"FASTPREF_CUDA_ARCHITECTURES names {', '.join(unknown)}; this nvcc compiles for {' '.join(known)}"
            )
        return sorted(set(chosen), key=lambda name: (int(re.match(r"\d+", name)[0]), name))
    if ours := [name for name in CUDA_ARCHITECTURES if name in known]:
        return ours
    raise BuildFailed(f"this nvcc compiles for none of {' '.join(CUDA_ARCHITECTURES)}; it has {' '.join(known)}")


def cuda_ninja_file(nvcc: str, architectures: list[str], scratch: Path, target: Path) -> str:
    """The text of build.ninja for the CUDA library: one object per source, each for all architectures."""
    newest = architectures[-1]
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    about = " ".join([*(f"sm_{name}" for name in architectures), f"compute_{newest}"])
    defines = {"api.cu": [f'-DFASTPREF_CUDA_ARCHITECTURES="{about}"']}  # the others need not be compiled again for it
    # Two architectures of a source at a time: the longest source is compiled last, and alone.
    flags = [*CUDA_FLAGS, *codes, "--threads", "2"]
    link = ["-shared", "-cudart", "static", "-Xlinker", "--exclude-libs,ALL", *codes]
    lines = [
        f"nvcc = {command_line([nvcc])}",
        "rule compile",
        "  command = $nvcc -MMD -MF $out.d $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $nvcc $in -o $out {command_line(link)}",
    ]
    objects = []
    for source in sorted((ROOT / CUDA_FOLDER).glob("*.cu")):
        objects.append(escape(scratch / f"{source.name}.o"))
        own = defines.get(source.name, [])
        lines += [f"build {objects[-1]}: compile {escape(source)}", f"  flags = {command_line([*flags, *own])}"]
    lines += [f"build {escape(target)}: link {' '.join(objects)}", f"default {escape(target)}", ""]
    return "\n".join(lines)


def build_cuda(nvcc: str, scratch: Path, target: Path) -> list[str]:
    """Compiles ``csrc/cuda`` into ``target``, for the architectures that it returns; ``BuildFailed`` says why not."""
    if sys.platform != "linux":
        raise BuildFailed("the CUDA kernels are built on Linux only")
    ninja, architectures = find_ninja(), cuda_architectures(nvcc)
    target.parent.mkdir(parents=True, exist_ok=True)
    run_ninja(ninja, scratch, cuda_ninja_file(nvcc, architectures, scratch, target), nvcc)
    return architectures


def build_mode(variable: str) -> str:
    """The value of ``FASTPREF_BUILD`` or ``FASTPREF_CUDA``."""
    mode = os.environ.get(variable, "")
    if mode not in ("", "0", "1"):
        raise CompileError(f"{variable}={mode!r}: expected 1 (must build), 0 (do not build) or nothing")
    return mode


class BuildNative(build_ext):
    """``build_ext`` with ninja, which leaves a record of the outcome beside the package's modules."""

    def build_extensions(self) -> None:
        """Build the module, then the library, and write the record; a failure is fatal only where a variable is 1."""
        build_mode("FASTPREF_CUDA")  # a wrong value is told at once
        reason = self._build_module(build_mode("FASTPREF_BUILD"))
        outcome = {"built": reason is None, "reason": reason, "cuda": self._build_library(reason)}
        record = Path(self.build_lib, RECORD)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(outcome) + "\n")

    def _build_module(self, mode: str) -> str | None:
        """``fastpref._C``; why not."""
        (extension,) = self.extensions
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        try:
            if mode == "0":
                raise BuildFailed("skipped, because FASTPREF_BUILD=0 was set at installation")
            build_native(Path(self.build_temp).resolve(), target)
        except (BuildFailed, OSError) as error:
            target.unlink(missing_ok=True)
            if mode == "1":
                raise CompileError(f"FASTPREF_BUILD=1 and fastpref._C was not built: {error}") from None
            print(f"warning: fastpref installs without its native module: {error}", file=sys.stderr)
            return str(error)
        return None

    def _build_library(self, module_failed: str | None) -> dict[str, object]:
        """The CUDA kernels; how that went, for the record."""
        mode = build_mode("FASTPREF_CUDA")
        target = Path(self.build_lib, CUDA_LIBRARY).resolve()
        found = False
        try:
            if mode == "0":
                raise BuildFailed("skipped, because FASTPREF_CUDA=0 was set at installation")
            if module_failed:
                raise BuildFailed(f"fastpref._C, which loads them, was not built: {module_failed}")
            nvcc = find_nvcc()
            found = True
            architectures = build_cuda(nvcc, Path(self.build_temp, "cuda").resolve(), target)
        except (BuildFailed, OSError) as error:
            target.unlink(missing_ok=True)
            if mode == "1":
                raise CompileError(f"FASTPREF_CUDA=1 and the CUDA kernels were not built: {error}") from None
            if found:
                print(f"warning: fastpref installs without its CUDA kernels: {error}", file=sys.stderr)
            return {"built": False, "reason": str(error)}
        return {"built": True, "reason": None, "architectures": architectures}

    def _products(self) -> list[tuple[str, str]]:
        """What was built, as pairs of its place in the build folder and its place in the source tree."""
        package = self.get_finalized_command("build_py").get_package_dir("fastpref")
        modules = [self.get_ext_filename(extension.name) for extension in self.extensions]
        names = [*modules, str(CUDA_LIBRARY), str(RECORD)]
        return [(os.path.join(self.build_lib, n), os.path.join(package, os.path.basename(n))) for n in names]

    def copy_extensions_to_source(self) -> None:
        """Put the module, the library and the record into the source tree, for editable installs and ``--inplace``."""
        for built, in_source in self._products():
            if os.path.exists(built):
                self.copy_file(built, in_source, level=self.verbose)
            else:  # one of an earlier build would hide that this one failed
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
