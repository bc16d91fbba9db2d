"""Compile the row kernels for GPUs that are not here and report what the compilers made of them, as JSON on stdout.

A program, not a test module: it needs a process in which triton was imported without ``TRITON_INTERPRET``. A stand-in for the GPU
driver names the target, and launches are turned into ``warmup`` calls, so that what is compiled is exactly what
``TritonBackend`` would have launched: its tiling, and triton's own specialisation on alignment and on values of 1.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import JITFunction, driver

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS, KlState
from fastpref.backends.triton import TritonBackend
from fastpref.kernels import tiling

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHAPES = {
    "long_rows": (2, 32768),  # contiguous and aligned
    "one_column": (2, 1),  # C and the row stride are specialised away
}


class StandInDriver(DriverBase):
    """What triton asks of a driver before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> str:
        return str(self.target)  # the key of triton's in-process kernel cache

    def get_current_stream(self, device: object) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> None:
        return None


def compile_row_kernels(
    shape: tuple[int, int], dtype: torch.dtype, transform: LogitTransform, stats: tuple[str, ...]
) -> dict[str, object]:
    """Run the backend's primitives with launches replaced by compilations; returns the compiled kernels by name."""
    compiled: dict[str, object] = {}

    def compile_instead(self: JITFunction, grid: tuple[int, ...]):
        def warmup(*args, **kwargs):
            compiled[self.__name__.lstrip("_")] = self.warmup(*args, grid=grid, **kwargs)

        return warmup

    logits = torch.zeros(shape, dtype=dtype)
    targets = torch.zeros(shape[0], dtype=torch.int64)
    per_row = torch.zeros(shape[0])
    backend = TritonBackend()
    JITFunction.__getitem__ = compile_instead
    state = RowState.start(shape[0], logits.device, torch.float32, stats)
    backend.row_stats(logits, targets, state, col0=0, transform=transform)
    backend.row_grad(logits, targets, per_row, per_row, per_row, logits, col0=0, transform=transform)
    if not stats:  # which would take the place of the kernel with them
        how = {"col0": 0, "transform": transform, "direction": "forward"}
        both = KlState.start(shape[0], logits.device, torch.float32)
        backend.row_kl_stats(logits, logits.clone(), targets, both, **how)
        backend.row_kl_grad(logits, logits.clone(), targets, *[per_row] * 6, logits, **how)
    return compiled


def loop_communication(ptx: str) -> int:
    """Shuffles and barriers inside loops: between a label and a branch back to it."""
    found = 0
    for branch in re.finditer(r"\bbra(?:\.uni)?\s+(\S+);", ptx):
        label = ptx.find(f"{branch[1]}:")
        if 0 <= label < branch.start():
            found += len(re.findall(r"\b(?:shfl|bar)\.", ptx[label : branch.start()]))
    return found


def nvidia_report(ptx: str, cubin: bytes) -> dict[str, int]:
    """Registers, spilled bytes (local memory and stack), 16-byte global accesses in the code, communication in loops."""
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage).groups())
    return {
        "registers": registers,
        "spilled_bytes": stack + local,
        "wide_loads": len(re.findall(r"\bld\.global\S*\.v4\.b32\b", ptx)),
        "wide_stores": len(re.findall(r"\bst\.global\S*\.v4\.b32\b", ptx)),
        "loop_communication": loop_communication(ptx),
    }


def amd_report(assembly: str) -> dict[str, int]:
    """The same from AMD's assembly, where the compiler writes its register counts beside the code."""

    def count(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", assembly)[1])

    return {
        "registers": count("vgpr_count"),
        "spilled_bytes": 4 * (count("vgpr_spill_count") + count("sgpr_spill_count")),
        "wide_loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4", assembly)),
        "wide_stores": len(re.findall(r"\b(?:global|buffer)_store_dwordx4", assembly)),
    }


def report(
    target: str, shape: str, dtype: str, transform: LogitTransform, stats: tuple[str, ...] = ()
) -> dict[str, dict[str, int]]:
    """One target's row kernels, each with its resources."""
    driver.set_active(StandInDriver(TARGETS[target]))
    tiling.warp_size.cache_clear()
    kernels = compile_row_kernels(SHAPES[shape], getattr(torch, dtype), transform, stats)
    amd = TARGETS[target].backend == "hip"
    return {
        name: amd_report(kernel.asm["amdgcn"]) if amd else nvidia_report(kernel.asm["ptx"], kernel.asm["cubin"])
        for name, kernel in kernels.items()
    }


def main() -> None:
    plain, softcap = LogitTransform(), LogitTransform(softcap=30.0)
    cases = [(target, "long_rows", "bfloat16", plain) for target in TARGETS]
    cases += [
        ("sm_90", "long_rows", "float32", plain),
        ("sm_90", "long_rows", "bfloat16", softcap),
        ("sm_90", "one_column", "float16", plain),
        *(("sm_90", "long_rows", dtype, plain, STATISTICS) for dtype in ("float32", "bfloat16")),
        ("gfx942", "long_rows", "bfloat16", softcap, STATISTICS),
        ("sm_90", "long_rows", "bfloat16", plain, ("log_sum_sq_probs",)),
    ]

    def name(case: tuple) -> str:
        return "|".join([*case[:3], "softcap" if case[3].softcap else "plain", *("+".join(x) for x in case[4:])])

    json.dump({name(case): report(*case) for case in cases}, sys.stdout)


if __name__ == "__main__":
    main()
