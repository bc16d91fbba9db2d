"""Data-sheet figures of the GPUs that ``bench/roofline.py`` models, and what their kernels need to keep memory busy.

Peak rates are dense (no sparsity), of the largest form factor. Every figure is the vendor's, from the source that is named; none was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESOURCES = Path(__file__).with_name("ahead_of_time.json")
"""What the compilers made of the kernels, where that report was written: registers, shared memory and resident warps per target."""

MEMORY_LATENCY = 700e-9
"""Seconds from a load to its data under load: an assumption, the same for all."""

LOAD_BYTES, LOADS_IN_FLIGHT = 16, 4
"""Of a thread of the row kernels (``kernels/tiling.py``)."""

DEFAULT_RESIDENT_WARPS = {"nvidia": 32, "amd": 16}
"""Per multiprocessor, where the report has nothing: 64 registers per thread, the most that the row kernels take."""

THREADS_PER_WARP = {"nvidia": 32, "amd": 64}


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        name: as in the tables.
        target: what the kernels are compiled for.
        tensor_flops: dense bf16 tensor-core FLOP/s with float32 accumulation.
        vector_flops: float32 FLOP/s of the ordinary units.
        bandwidth: of memory, bytes per second.
        l2_bytes: of the last-level cache on the chip (MI300X: Infinity Cache).
        multiprocessors: or compute units.
        memory_bytes: capacity.
        source: of the figures.
    """

    name: str
    target: str
    tensor_flops: float
    vector_flops: float
    bandwidth: float
    l2_bytes: int
    multiprocessors: int
    memory_bytes: int
    source: str

    @property
    def vendor(self) -> str:
        return "amd" if self.target.startswith("gfx") else "nvidia"


_MB, _GB = 10**6, 10**9

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            "H100", "sm_90", 989.4e12, 66.9e12, 3.35e12, 50 * _MB, 132, 80 * _GB,
            "NVIDIA H100 Tensor Core GPU data sheet and architecture white paper, SXM5",
        ),
        Device(
            "H200", "sm_90", 989.4e12, 66.9e12, 4.8e12, 50 * _MB, 132, 141 * _GB,
            "NVIDIA H200 Tensor Core GPU data sheet, SXM5; cache and multiprocessors as H100",
        ),
        Device(
            "A100", "sm_80", 312e12, 19.5e12, 2.039e12, 40 * _MB, 108, 80 * _GB,
            "NVIDIA A100 Tensor Core GPU data sheet and architecture white paper, SXM4 80 GB",
        ),
        Device(
            "B200", "sm_100", 2250e12, 75e12, 8e12, 126 * _MB, 148, 180 * _GB,
            "NVIDIA HGX B200 data sheet, an eighth of the eight-GPU board; cache and multiprocessors as in NVIDIA's tuning guide",
        ),
        Device(
            "MI300X", "gfx942", 1307.4e12, 163.4e12, 5.3e12, 256 * _MB, 304, 192 * _GB,
            "AMD Instinct MI300X accelerator data sheet",
        ),
        Device(
            "RTX 4090", "sm_89", 165.2e12, 82.6e12, 1.008e12, 72 * _MB, 128, 24 * _GB,
            "NVIDIA Ada GPU architecture white paper, appendix A (bf16 with float32 accumulation)",
        ),
    )
}  # fmt: skip


@cache
def _report(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Kernel -> target -> resources."""
    return json.loads(path.read_text())["kernels"] if path.exists() else {}


def resident_warps(device: Device, kernel: str, path: Path = RESOURCES) -> int:
    """Warps of that kernel per multiprocessor at the same time, from the report of the compilers, or the documented default."""
    found = _report(path).get(kernel, {}).get(device.target)
    return DEFAULT_RESIDENT_WARPS[device.vendor] if found is None else found["resident_warps"]


def resident_programs(device: Device, kernel: str, path: Path = RESOURCES) -> int:
    """The same in programs, for tile kernels; 1 where the report has nothing."""
    found = _report(path).get(kernel, {}).get(device.target)
    return 1 if found is None else max(1, found["resident_warps"] // found["warps"])


def bandwidth_share(device: Device, warps: int) -> float:
    """How much of the bandwidth that many resident warps can ask for: bytes in flight over those that cover the latency; at most 1."""
    in_flight = warps * THREADS_PER_WARP[device.vendor] * LOADS_IN_FLIGHT * LOAD_BYTES
    needed = device.bandwidth * MEMORY_LATENCY / device.multiprocessors
    return min(1.0, in_flight / needed)
