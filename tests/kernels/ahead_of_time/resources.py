"""What a compiled kernel takes and uses, read from its binary: NVIDIA's with cuobjdump and nvdisasm, AMD's assembly as it is.

Counts of instructions are of the code, not of what is executed. An access is *wide* from 16 bytes per thread on; copies to shared memory
(``LDGSTS``, ``buffer_load ... lds``) and TMA loads count as loads.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton

from ...emulation.stand_in_driver import TARGETS
from .hardware import HARDWARE, NVIDIA, occupancy

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


LIMITS = {target: HARDWARE[target] for target in TARGETS}

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
        **{name: len(re.findall(pattern, code)) for name, pattern in NVIDIA.items()},
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


def _output(*command: Any) -> str:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, check=True).stdout
