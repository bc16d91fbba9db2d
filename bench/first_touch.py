"""What memory costs before anything is computed: bandwidth of writing a buffer that is fresh, fresh on huge pages, or reused.

    python bench/first_touch.py [MiB]

Interleaved, medians. ``fresh`` is ``torch.empty``, ``huge`` is ``fastpref.scratch.fresh`` (a gradient), ``pool`` is ``fastpref.scratch.take``
(scratch, reused from the second round on).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: shared cores

import statistics
import sys
import time

import torch

from fastpref import scratch

ROUNDS = 7


def main() -> None:
    """Print the table."""
    elements = (int(sys.argv[1]) if len(sys.argv) > 1 else 256) * (1 << 18)
    cpu = torch.device("cpu")
    makers = {
        "fresh": lambda: torch.empty(elements),
        "huge": lambda: scratch.fresh((elements,), torch.float32, cpu),
        "pool": lambda: scratch.take(elements, torch.float32, cpu),
    }
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            start = time.perf_counter()
            make().fill_(1.0)
            seconds[name].append(time.perf_counter() - start)
    scratch.release()
    base = statistics.median(seconds["fresh"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:<6}{median * 1e3:8.1f} ms {elements * 4 / median / 1e9:6.1f} GB/s {base / median:6.2f}x")


if __name__ == "__main__":
    main()
