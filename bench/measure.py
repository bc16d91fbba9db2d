"""What the benchmark scripts share: interleaved timing, the machine's limits, peak memory, and how contestants are left out.

Times of one run are comparable with each other and with nothing else: on a shared machine the clock and the memory bandwidth wander by
factors within seconds. So every variant runs once per round, in turn (A B C A B C), and a ratio is the median over the rounds of the
ratios within a round. Memory is read from /proc: Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Variants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Timings:
    """Seconds per round of every variant, one list entry per round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def medians(self) -> dict[str, float]:
        return {name: self.median(name) for name in self.seconds}

    def ratio(self, name: str, to: str) -> float:
        """How many times as long as ``to`` it takes: the median of the ratios within a round."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def sum_of(self, total: str, parts: Sequence[str]) -> Timings:
        """Also a variant ``total`` that takes, in each round, what ``parts`` take together."""
        rounds = zip(*(self.seconds[name] for name in parts), strict=True)
        return Timings({**self.seconds, total: [sum(parts) for parts in rounds]})


def interleaved(
    variants: Variants, repeats: int, *, warmups: int = 1, before: Callable[[str], object] | None = None
) -> Timings:
    """``repeats`` rounds of one run of each variant, after ``warmups`` rounds that do not count.

    Args:
        variants: name -> what to time.
        repeats: rounds that count.
        warmups: rounds before them.
        before: called with the name before each run, outside the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(warmups + repeats):
        for name, run in variants.items():
            if before is not None:
                before(name)
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if round_ >= warmups:
                seconds[name].append(elapsed)
    return Timings(seconds)


# --- limits of the machine ----------------------------------------------------------------------------------------------------


def gemm_flops(rows: int, hidden: int, vocab: int) -> int:
    """FLOPs of one call of what :func:`head_gemms` returns."""
    return 6 * rows * hidden * vocab


def head_gemms(hidden: Tensor, weight: Tensor) -> Callable[[], None]:
    """torch.mm on the three shapes of a linear head (logits, dX, dW), into buffers that exist: the rate that a plan is judged by."""
    hidden, weight = hidden.detach(), weight.detach()
    logits = hidden.new_zeros(hidden.shape[0], weight.shape[0])
    dx, dw = torch.zeros_like(hidden), torch.zeros_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.t(), out=logits)
        torch.mm(logits, weight, out=dx)
        torch.mm(logits.t(), hidden, out=dw)

    return run


def stream_limits(native: Any, buffer: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """``(read, update)``: a plain vectorised read of the buffer, and its in-place update, with torch's number of threads."""
    words = buffer.numel() * buffer.element_size() // 8

    def place() -> dict[str, int]:
        return {"words": buffer.data_ptr(), "n": words, "threads": torch.get_num_threads()}

    return (lambda: native.stream_read(**place())), (lambda: native.stream_update(**place()))


# --- memory -------------------------------------------------------------------------------------------------------------------


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


def resident_bytes() -> int:
    """The process's resident set now."""
    return _kilobytes("/proc/self/status", "VmRSS")


def _kilobytes(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise OSError(f"{path}: expected a line {field}, found none")


def trim() -> None:
    """Gives freed heap pages back, so that the resident set is what is alive."""
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim_heap is not None:
        trim_heap(0)


def peak_resident(run: Callable[[], object]) -> int:
    """The highest resident set in bytes while ``run`` runs.

    The kernel's own high-water mark where the process may reset it (it misses nothing); else a second process samples this one's
    resident set about every 0.2 ms, so that code which holds the interpreter lock does not stop the sampling.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _sampled_peak(run)
    run()
    return _kilobytes("/proc/self/status", "VmHWM")


_WATCH = """
import os, select, sys, time
page, highest = os.sysconf("SC_PAGE_SIZE"), 0
with open(f"/proc/{sys.argv[1]}/statm") as statm:
    print("ready", flush=True)
    while True:
        statm.seek(0)
        highest = max(highest, int(statm.read().split()[1]) * page)
        if select.select([sys.stdin], [], [], 0.0002)[0]:
            break
print(highest)
"""


def _sampled_peak(run: Callable[[], object]) -> int:
    command = [sys.executable, "-c", _WATCH, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        try:
            run()
        finally:
            found, _ = watcher.communicate()
    return max(int(found), resident_bytes())


def in_own_process(script: str, arguments: Sequence[str]) -> int:
    """The whole number that ``python script arguments`` prints last, in a process whose allocator returns what is freed."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment)
    if found.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{found.stderr}")
    return int(found.stdout.split()[-1])


# --- reports ------------------------------------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """Why a contestant was left out."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def machine() -> dict[str, object]:
    """What a reader needs to know to place the numbers."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def write_json(path: Path | None, content: Mapping[str, object]) -> None:
    """``content`` beside :func:`machine`, where a path was given."""
    if path is not None:
        path.write_text(json.dumps({**machine(), **content}, indent=1) + "\n")


def print_checks(checks: Sequence[tuple[str, bool]]) -> int:
    """Every acceptance threshold with whether it holds; the exit status."""
    print("\nacceptance:")
    for text, holds in checks:
        print(f"  {'holds' if holds else 'FAILS':<7}{text}")
    held = sum(holds for _, holds in checks)
    print(f"  {held} of {len(checks)} hold")
    return int(held < len(checks) or not checks)
