"""What multiprocessors have and instructions are called, for all that reads compiled kernels, whoever compiled them."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What one multiprocessor (NVIDIA) or compute unit (AMD) has for the programs that are on it at the same time.

    All of them have four partitions of their own registers, 512 for every lane.
    """

    warps: int
    programs: int
    shared: int
    shared_per_program: int  # what the system takes for itself


# CUDA C++ programming guide, table of technical specifications per compute capability; AMD CDNA ISA guides.
HARDWARE = {
    "sm_80": Limits(64, 32, 164 * 1024, 1024),
    "sm_86": Limits(48, 16, 100 * 1024, 1024),
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

# Instructions by what they are, in the code that nvdisasm shows.
NVIDIA = {
    "wide_loads": r"\bLDG\.\S*\.(?:128|256)\b|\bLDGSTS\.\S*\.128\b|\bUTMALDG\b",
    "narrow_loads": r"\bLDG\.(?!\S*\.(?:128|256)\b)|\bLDGSTS\.(?!\S*\.128\b)",
    "wide_stores": r"\bSTG\.\S*\.(?:128|256)\b|\bUTMASTG\b",
    "tensor_core": r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b",
}


def occupancy(target: str, registers: int, warps: int, shared: int) -> int:
    """Warps on a multiprocessor at the same time if there is work for all: what registers, shared memory and the hardware allow."""
    limits = HARDWARE[target]
    registers = -(-max(registers, 1) // _REGISTER_STEP) * _REGISTER_STEP
    by_registers = _REGISTERS // registers * _PARTITIONS
    programs = min(limits.programs, min(by_registers, limits.warps) // warps)
    if shared:
        programs = min(programs, limits.shared // (shared + limits.shared_per_program))
    return programs * warps
