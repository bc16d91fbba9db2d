"""What a compiled kernel takes and uses, read from its binary: NVIDIA's with cuobjdump and nvdisasm, AMD's assembly as it is.

Counts of instructions are of the code, not of what is executed. An access is *wide* from 16 bytes per thread on; copies to shared memory
(``LDGSTS``, ``buffer_load ... lds``) and TMA loads count as loads.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Limits(NamedTuple):
    """What one multiprocessor (NVIDIA) or compute unit (AMD) has for the programs that are on it at the same time.

    All of them have four partitions of their own registers, 512 for every lane.
    """

    warps: int
    programs: int
    shared: int
    shared_per_program: int  # what the system takes for itself


# CUDA C++ programming guide, table of technical specifications per compute capability; AMD CDNA ISA guides.
LIMITS = {
    "sm_80": Limits(64, 32, 164 * 1024, 1024),
    "sm_89": Limits(48, 24, 100 * 1024, 1024),
    "sm_90": Limits(64, 32, 228 * 1024, 1024),
    "sm_100": Limits(64, 32, 228 * 1024, 1024),
    "sm_120": Limits(48, 24, 100 * 1024, 1024),
    "gfx90a": Limits(32, 32, 64 * 1024, 0),
    "gfx942": Limits(32, 32, 64 * 1024, 0),
    "gfx950": Limits(32, 32, 160 * 1024, 0),
}
_PARTITIONS, _REGISTERS = 4, 512
_REGISTER_STEP = 8  # they are handed out to a thread in eights

_NVIDIA = {
    "wide_loads": r"\bLDG\.\S*\.(?:128|256)\b|\bLDGSTS\.\S*\.128\b|\bUTMALDG\b",
    "narrow_loads": r"\bLDG\.(?!\S*\.(?:128|256)\b)|\bLDGSTS\.(?!\S*\.128\b)",
    "wide_stores": r"\bSTG\.\S*\.(?:128|256)\b|\bUTMASTG\b",
    "tensor_core": r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b",
}
_AMD = {
    "wide_loads": r"\b(?:global|buffer)_load_(?:lds_)?dwordx4\b",
    "narrow_loads": r"\b(?:global|buffer)_load_(?!(?:lds_)?dwordx4\b)\w+",
    "wide_stores": r"\b(?:global|buffer)_store_dwordx4\b",
    "tensor_core": r"\bv_mfma_\w+",
}


def read(kernel: Any, target: str) -> dict[str, int]:
    """The resources of a kernel that triton compiled for ``target``."""
    found = amd(kernel.asm["amdgcn"]) if target.startswith("gfx") else nvidia(kernel.asm["ptx"], kernel.asm["cubin"])
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    resident = occupancy(target, found["registers"], warps, shared)
    return {"warps": warps, **found, "shared": shared, "resident_warps": resident}


def nvidia(ptx: str, cubin: bytes) -> dict[str, int]:
    """Registers of a thread, bytes spilled by it (stack and local memory), instructions, communication in loops."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output(TOOLS / "cuobjdump", "-res-usage", file.name)
        code = _output(TOOLS / "nvdisasm", "-c", file.name)
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage).groups())
    return {
        "registers": registers,
        "spilled_bytes": stack + local,
        **{name: len(re.findall(pattern, code)) for name, pattern in _NVIDIA.items()},
        "loop_communication": loop_communication(ptx),
    }


def amd(assembly: str) -> dict[str, int]:
    """The same from AMD's assembly, where the compiler writes its register counts beside the code; no count for loops.

    Spilled is what lies in scratch memory. Scalar registers are spilled to lanes of vector registers and, on some of these GPUs, vector
    registers to accumulation registers: that is counted where they are, in the registers.
    """

    def count(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", assembly)[1])

    return {
        "registers": count("vgpr_count"),
        "spilled_bytes": count("private_segment_fixed_size"),
        **{name: len(re.findall(pattern, assembly)) for name, pattern in _AMD.items()},
    }


def loop_communication(ptx: str) -> int:
    """Shuffles and barriers inside loops: between a label and a branch back to it."""
    found = 0
    for branch in re.finditer(r"\bbra(?:\.uni)?\s+(\S+);", ptx):
        label = ptx.find(f"{branch[1]}:")
        if 0 <= label < branch.start():
            found += len(re.findall(r"\b(?:shfl|bar)\.", ptx[label : branch.start()]))
    return found


def occupancy(target: str, registers: int, warps: int, shared: int) -> int:
    """Warps on a multiprocessor at the same time if there is work for all: what registers, shared memory and the hardware allow."""
    limits = LIMITS[target]
    registers = -(-max(registers, 1) // _REGISTER_STEP) * _REGISTER_STEP
    by_registers = _REGISTERS // registers * _PARTITIONS
    programs = min(limits.programs, min(by_registers, limits.warps) // warps)
    if shared:
        programs = min(programs, limits.shared // (shared + limits.shared_per_program))
    return programs * warps


def _output(*command: Any) -> str:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, check=True).stdout
