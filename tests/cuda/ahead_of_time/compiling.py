"""Compiling ``csrc/cuda`` for one GPU after the other, as ``setup.py`` does it, and reading what came out.

Counts of instructions are of the code, not of what is executed.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...kernels.ahead_of_time.hardware import NVIDIA, occupancy
from ...kernels.ahead_of_time.tables import Resources, Table
from .rules import RULES, Rule, rule_for

ROOT = Path(__file__).parents[3]
CSRC = ROOT / "csrc"
LOCAL = r"\b(?:LDL|STL)\b"  # loads and stores of a thread's own memory: spilled registers, arrays that are no registers


def of_setup(name: str) -> Any:
    """A constant of ``setup.py``, which cannot be imported."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise LookupError(f"setup.py has no constant {name}")


TARGETS = [f"sm_{name}" for name in of_setup("CUDA_ARCHITECTURES")]


def nvcc() -> str | None:
    """The CUDA compiler, where ``setup.py`` looks for it."""
    homes = [os.path.join(home, "bin") for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    places = [homes[0]] if homes else [None, "/usr/local/cuda/bin"]
    return next((found for place in places if (found := shutil.which("nvcc", path=place))), None)


def nvdisasm() -> str | None:
    """The disassembler: beside nvcc, on PATH, or in triton's package, which has a newer one than old toolkits."""
    beside = Path(nvcc() or "/").resolve().parent
    triton = importlib.util.find_spec("triton")
    packaged = [str(Path(triton.origin).parent / "backends/nvidia/bin")] if triton and triton.origin else []
    return next(
        (found for place in (str(beside), None, *packaged) if (found := shutil.which("nvdisasm", path=place))), None
    )


def missing() -> str | None:
    """Why nothing can be compiled and read here."""
    absent = [
        name
        for name, found in {"nvcc": nvcc(), "nvdisasm": nvdisasm(), "c++filt": shutil.which("c++filt")}.items()
        if not found
    ]
    return f"{' and '.join(absent)} not found" if absent else None


def version() -> str:
    """Of nvcc, such as ``13.0.88``."""
    return re.search(r"\bV(\d+\.\d+\.\d+)", _output(nvcc(), "--version"))[1]


def compile_all(targets: list[str], csrc: Path = CSRC, rules: list[Rule] = RULES, jobs: int | None = None) -> Table:
    """The table of every kernel of every source, for these targets."""
    kernels: dict[str, dict[str, Resources]] = {}
    sources = sorted((csrc / "cuda").glob("*.cu"))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        made = [
            (target, pool.submit(compile_one, source, target, csrc, rules, Path(scratch)))
            for source in sources
            for target in targets
        ]
        for target, resources in made:
            for name, what in resources.result().items():
                kernels.setdefault(name, {})[target] = what
    return {"nvcc": version(), "kernels": dict(sorted(kernels.items()))}


def compile_one(source: Path, target: str, csrc: Path, rules: list[Rule], scratch: Path) -> dict[str, Resources]:
    """What the kernels of a source take on a target."""
    cubin = scratch / f"{source.stem}.{target}.cubin"
    flags = [*of_setup("CUDA_FLAGS"), f"-arch={target}", "-cubin", "--ptxas-options=-v", f"-I{csrc}"]
    done = subprocess.run([nvcc(), *flags, source, "-o", cubin], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{source.name} does not compile for {target}:\n{done.stdout}{done.stderr}")
    code = _output(nvdisasm(), "-c", cubin)
    return read(done.stderr, code, max_threads(cubin.read_bytes()), target, rules, enumerators(csrc))


def read(
    ptxas: str, code: str, threads: dict[str, int], target: str, rules: list[Rule], enums: dict[str, list[str]]
) -> dict[str, Resources]:
    """From what ptxas said and nvdisasm showed: the resources of each kernel, by its readable name."""
    sections = dict(
        re.findall(
            r"^\s*\.section\s+\.text\.([\w$.]+),.*?\n(.*?)(?=^\s*\.section\s|\Z)", code, re.MULTILINE | re.DOTALL
        )
    )
    found = {}
    for said in re.split(r"Compiling entry function ", ptxas)[1:]:
        mangled = re.match(r"'(\S+)'", said)[1]
        name = readable(_demangled(mangled), enums)
        rule = rule_for(name, rules) or Rule("")
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        stack, stored, loaded = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
        )
        static = re.search(r"(\d+) bytes smem", said)
        shared = (int(static[1]) if static else 0) + rule.dynamic_shared
        instructions = {what: len(re.findall(pattern, sections[mangled])) for what, pattern in NVIDIA.items()}
        warps = -(-threads[mangled] // 32)
        resident = occupancy(target, registers, warps, shared)
        found[name] = {
            "threads": threads[mangled],
            "registers": registers,
            "spilled_bytes": max(stack, stored, loaded),
            "local": len(re.findall(LOCAL, sections[mangled])),
            "shared": shared,
            **instructions,
            "resident_blocks": resident // warps,
            "resident_warps": resident,
            "in_flight": resident * 32 * 16 * rule.in_flight // 1024 if rule.in_flight else None,
        }
    return found


def enumerators(csrc: Path) -> dict[str, list[str]]:
    """The names of the values of every ``enum class``, which have the values 0, 1, 2 ... where they are template arguments."""
    found = {}
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cuh", ".cu")):
        for name, body in re.findall(r"\benum class (\w+)[^{;]*\{(.*?)\}", path.read_text(), re.DOTALL):
            body = re.sub(r"//.*", "", body)
            found[name] = [word.split("=")[0].strip() for word in body.split(",") if word.strip()]
    return found


def readable(demangled: str, enums: dict[str, list[str]]) -> str:
    """``row_stats<BFloat16, Kind::kPlain>`` of ``void fastpref::row_stats<fastpref::BFloat16, (fastpref::Kind)0>(fastpref::Args)``."""
    text = re.sub(
        r"\b(?:fastpref|\(anonymous namespace\)|_INTERNAL_\w+|_GLOBAL__N_\w+)::", "", demangled.removeprefix("void ")
    )
    depth = 0
    for i, letter in enumerate(text):
        if letter == "(" and not depth:
            text = text[:i]
            break
        depth += (letter == "<") - (letter == ">")

    def value(match: re.Match[str]) -> str:
        names = enums.get(match[1], [])
        return f"{match[1]}::{names[int(match[2])]}" if int(match[2]) < len(names) else match[0]

    return re.sub(r"\((\w+)\)(\d+)", value, text)


def max_threads(cubin: bytes) -> dict[str, int]:
    """The threads that a block of each kernel may have at most, from the ELF sections ``.nv.info.<kernel>``; 1024 where none is said."""
    table = int.from_bytes(cubin[0x28:0x30], "little")
    size, count, names_at = (int.from_bytes(cubin[at : at + 2], "little") for at in (0x3A, 0x3C, 0x3E))

    def section(number: int) -> tuple[int, bytes]:
        head = cubin[table + number * size : table + (number + 1) * size]
        at, length = int.from_bytes(head[0x18:0x20], "little"), int.from_bytes(head[0x20:0x28], "little")
        return int.from_bytes(head[:4], "little"), cubin[at : at + length]

    names = section(names_at)[1]
    found = {}
    for number in range(count):
        at, content = section(number)
        name = names[at : names.index(b"\0", at)].decode()
        if name.startswith(".text."):
            found.setdefault(name.removeprefix(".text."), 1024)
        if name.startswith(".nv.info."):
            found[name.removeprefix(".nv.info.")] = _max_threads_in(content)
    return found


def _max_threads_in(info: bytes) -> int:
    """Records of a format byte, an attribute byte, and two bytes that are the value or, for format 4, the length of what follows."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, short = info[at], info[at + 1], int.from_bytes(info[at + 2 : at + 4], "little")
        value = info[at + 4 : at + 4 + short] if form == 4 else b""
        if attribute == 5 and len(value) == 12:  # EIATTR_MAX_THREADS: three dimensions
            x, y, z = (int.from_bytes(value[i : i + 4], "little") for i in (0, 4, 8))
            return x * y * z
        at += 4 + len(value)
    return 1024


def _demangled(name: str) -> str:
    return _output("c++filt", name).strip()


def _output(*command: Any) -> str:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, check=True).stdout
