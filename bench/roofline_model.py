"""The rules by which ``bench/roofline.py`` predicts: a step is phases one after the other, a phase is bound by arithmetic or by memory.

    seconds = max(tensor FLOPs / (efficiency x peak) + vector FLOPs / (efficiency x peak), bytes / (share x bandwidth))

The same rules for every contestant. Not in the model: launches and the host, clocks below the data sheet's, what a cache saves beyond one pass over
each operand of a GEMM, and whatever overlaps between phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from roofline_devices import Device, bandwidth_share, resident_programs, resident_warps

Unit = Literal["gemm", "tile", "stream"]
"""A GEMM of the vendor's library; a Triton GEMM with an epilogue over its tile of logits; a kernel that streams rows or elements."""

VECTOR_FLOPS_PER_LOGIT = 12
"""Of a softmax and its sum, or a gradient: scale, subtract, exponential, add, compare, convert."""

TILE_ROWS, TILE_SEGMENTS = 128, 128
"""Programs of a tile kernel: this many rows each, and the vocabulary in so many segments."""


@dataclass(frozen=True)
class Assumptions:
    """Every efficiency, in one place. None was measured.

    Attributes:
        gemm: share of the tensor-core peak that the library's GEMMs reach.
        tile: that of a Triton tile kernel relative to ``gemm``.
        locked_tile: that of a tile kernel whose backward adds to memory under locks, relative to ``gemm``.
        vector: share of the float32 peak in the ordinary units (exponentials run at a quarter of it).
        stream: share of the bandwidth that a kernel with enough bytes in flight reaches.
        kept_blocks: blocks that cut cross-entropy's filter leaves to do, where it is on.
    """

    gemm: float = 0.75
    tile: float = 0.85
    locked_tile: float = 0.45
    vector: float = 0.5
    stream: float = 0.9
    kept_blocks: float = 0.2

    def with_gemm(self, gemm: float) -> Assumptions:
        return replace(self, gemm=gemm)

    def with_tile(self, tile: float) -> Assumptions:
        return replace(self, tile=tile)


@dataclass(frozen=True)
class Phase:
    """A kernel, or several of a kind.

    Attributes:
        name: what it does.
        unit: which rates hold.
        flops: of matrix products.
        nbytes: to and from memory.
        logits: that a softmax or a gradient is taken of.
        rows: of a tile kernel, for the last wave of its programs; 0: full waves.
        locked: it adds to memory under locks.
        kernel: its name in the report of the compilers; empty for a kernel that is not ours.
    """

    name: str
    unit: Unit
    flops: float = 0.0
    nbytes: float = 0.0
    logits: float = 0.0
    rows: int = 0
    locked: bool = False
    kernel: str = ""

    def seconds(self, device: Device, a: Assumptions) -> float:
        efficiency = a.gemm
        if self.unit == "tile":
            efficiency *= (a.locked_tile if self.locked else a.tile) * full_waves(device, self.rows, self.kernel)
        arithmetic = self.flops / (efficiency * device.tensor_flops)
        arithmetic += self.logits * VECTOR_FLOPS_PER_LOGIT / (a.vector * device.vector_flops)
        share = a.stream
        if self.unit == "stream":
            share *= bandwidth_share(device, resident_warps(device, self.kernel))
        return max(arithmetic, self.nbytes / (share * device.bandwidth))


def full_waves(device: Device, rows: int, kernel: str = "") -> float:
    """Share of the multiprocessors that work, on average over the waves of a tile kernel's programs."""
    if rows == 0:
        return 1.0
    programs = -(-rows // TILE_ROWS) * TILE_SEGMENTS
    together = device.multiprocessors * resident_programs(device, kernel)
    return programs / (-(-programs // together) * together)


@dataclass(frozen=True)
class Step:
    """Forward and backward of one contestant.

    Attributes:
        phases: in order.
        peak_bytes: at most alive at a time besides inputs and 16-bit gradients.
        inputs_bytes: inputs and 16-bit gradients.
        note: what the number leaves out.
    """

    phases: tuple[Phase, ...]
    peak_bytes: float
    inputs_bytes: float = 0.0
    note: str = ""

    @property
    def flops(self) -> float:
        return sum(phase.flops for phase in self.phases)

    @property
    def nbytes(self) -> float:
        return sum(phase.nbytes for phase in self.phases)

    def seconds(self, device: Device, a: Assumptions) -> float:
        return sum(phase.seconds(device, a) for phase in self.phases)

    def fits(self, device: Device) -> bool:
        return self.peak_bytes + self.inputs_bytes <= device.memory_bytes


def streams(name: str, logits: float, bytes_per_logit: Sequence[float], kernel: str = "") -> list[Phase]:
    """One element-wise or row kernel over all logits after the other; each moves so many bytes per logit."""
    return [Phase(name, "stream", nbytes=b * logits, logits=logits, kernel=kernel) for b in bytes_per_logit]
