"""How much of a row one program takes at a time, and which family of GPUs it runs on.

The row kernels are limited by memory, so the rule keeps bytes in flight: every thread issues a few loads of 16 bytes before it waits,
and a program has just enough warps to cover its row in one step, at most those of :func:`most_warps`. An H100 needs about 20 KB in flight per
multiprocessor to cover its latency. How many loads is a matter of registers, so each kernel says it for itself; most leave room for
1000 threads per multiprocessor or more. More warps per program would only make the end of the grid coarser, and fewer would
leave a GPU idle when there are few rows.

``cuda8``   sm_80
``cuda8x``  sm_86, sm_89 and sm_120: 48 warps per multiprocessor and 100 KiB of shared memory
``cuda9``   sm_90
``cuda10``  sm_100 and sm_103
``cdna``    gfx90a, gfx942 and gfx950: warps of 64
``other``   any other GPU; and ``interpreter``, which is none
"""

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from triton.runtime import JITFunction

from . import autotune

_LOAD_BYTES = 16
_MOST_WARPS = 8
# Registers and slots of a multiprocessor are handed out per program: 8 warps of 64 are 512 threads, and with 130 registers each (every statistic
# asked for) a compute unit has room for one such program, or for three of 4 warps. It is 256 threads everywhere then. On NVIDIA 4 warps in
# place of 8 keep at most half as much again in flight, where only gradients with a softcap or a divergence are short of it; they
# would halve what few rows that are split over programs keep.
_MOST_WARPS_OF = {"cdna": 4}


class Tiling(NamedTuple):
    """One step of a program: ``lanes`` columns per load instruction of the whole program, a power of two, by ``num_warps`` warps."""

    lanes: int
    num_warps: int


def most_warps() -> int:
    """The warps of a program that has long rows, on the GPU in use."""
    return _MOST_WARPS_OF.get(active_family(), _MOST_WARPS)


def tiling(columns: int, element_size: int, loads: int) -> Tiling:
    """The step for rows of ``columns`` elements of ``element_size`` bytes, if every thread keeps ``loads`` loads in flight."""
    lanes_per_warp = warp_size() * (_LOAD_BYTES // element_size)
    wanted = triton.next_power_of_2(triton.cdiv(columns, loads * lanes_per_warp))
    num_warps = min(wanted, most_warps())
    if autotune.enabled() and not INTERPRETED:
        num_warps = _tuned_warps(columns, element_size, loads, wanted, num_warps)
    return Tiling(lanes_per_warp * num_warps, num_warps)


_CANDIDATES = (2, 4, 8, 16)  # warps
_SCRATCH_BYTES = 64 << 20
_forced = threading.local()


def _tuned_warps(columns: int, element_size: int, loads: int, wanted: int, default: int) -> int:
    """The fastest of a few numbers of warps for a sweep over rows of about this length."""
    if (now := getattr(_forced, "num_warps", None)) is not None:
        return min(wanted, now)
    bucket = triton.next_power_of_2(columns)
    candidates = {f"{n} warps": n for n in sorted({default, *_CANDIDATES}) if n <= max(wanted, default)}
    what = f"rows of {bucket} columns, {element_size} bytes each, {loads} loads"

    def run(num_warps: int) -> None:
        _forced.num_warps = num_warps
        try:
            sweep()
        finally:
            _forced.num_warps = None

    sweep = _representative(bucket, element_size, loads)
    return autotune.choose(what, candidates, f"{default} warps", run)


def _representative(columns: int, element_size: int, loads: int) -> Callable[[], None]:
    """The launch that stands for all with as many loads in flight: statistics for many, the gradient for few. Makes its scratch when it runs."""
    from .row_grad import row_grad
    from .row_stats import row_stats

    made: list[torch.Tensor] = []

    def sweep() -> None:
        if not made:
            rows = max(_SCRATCH_BYTES // (columns * element_size), 1)
            dtype = torch.float32 if element_size == 4 else torch.bfloat16
            made.append(torch.zeros(rows, columns, dtype=dtype, device="cuda"))
            made.append(torch.zeros(rows, dtype=torch.int64, device="cuda"))
            made.extend(torch.ones(rows, device="cuda") for _ in range(3))
        logits, targets, *per_row = made
        if loads > 2:
            row_stats(logits, targets, *per_row)
        else:
            row_grad(logits, targets, *per_row, logits)

    return sweep


MAX_PARTS = 32
_PROGRAMS_PER_MULTIPROCESSOR = 2


def parts_of(rows: int, columns: int, step: int, multiprocessors: int) -> tuple[int, int]:
    """Into how many parts each row is split for a GPU with that many multiprocessors, and the columns of a part: whole steps of a program.

    Rows stay whole where every multiprocessor has one, or where the number is 0: not known. Nothing else goes into it, so the same
    shape on the same kind of device is always summed in the same order.
    """
    steps = triton.cdiv(columns, step)
    if rows >= multiprocessors:
        return 1, steps * step
    wanted = min(triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors, rows), steps, MAX_PARTS)
    width = triton.cdiv(steps, wanted) * step
    return triton.cdiv(columns, width), width


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors (compute units) of a GPU; 0 where kernels are interpreted or only compiled."""
    if INTERPRETED or device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _any_kernel():
    pass


INTERPRETED = not isinstance(_any_kernel, JITFunction)
"""Whether ``TRITON_INTERPRET`` was set when triton compiled the first kernel of this package: they run on the CPU then."""


def family_of(backend: str, arch: int | str) -> str:
    """The family of a target as triton names it: ``("cuda", 90)``, ``("hip", "gfx942")``."""
    if backend == "cuda":
        major = int(arch) // 10
        if major == 8:
            return "cuda8" if int(arch) == 80 else "cuda8x"
        return {9: "cuda9", 10: "cuda10", 12: "cuda8x"}.get(major, "other")
    return "cdna" if str(arch).split(":")[0] in ("gfx90a", "gfx942", "gfx950") else "other"


@functools.cache
def active_family() -> str:
    """The family of the GPU in use."""
    if INTERPRETED:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    return family_of(target.backend, target.arch)


@functools.cache
def warp_size() -> int:
    """Threads per warp of the active GPU: 32, or 64 on AMD's CDNA."""
    return 32 if INTERPRETED else triton.runtime.driver.active.get_current_target().warp_size


def forget_device() -> None:
    """Ask again: for tests in which the active GPU changes."""
    active_family.cache_clear()
    warp_size.cache_clear()
