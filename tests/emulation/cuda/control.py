"""Python's side of ``control.cpp``: orders the threads of an emulated library, announces memory to it and reads what its launches did.

::

    with control.watching(logits=logits, out=out) as seen:    # any other access of global memory raises RuntimeError
        backend.row_grad(...)
    seen["logits"].loads                                      # bytes
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor


@dataclass
class Counts:
    """Bytes loaded and stored, and of these by 16-byte accesses."""

    loads: int = 0
    stores: int = 0
    wide_loads: int = 0
    wide_stores: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Totals:
    """What the launches since the counts were reset had altogether."""

    launches: int
    blocks: int
    barriers: int
    warp_operations: int
    atomics: int


@dataclass
class Seen:
    """What was announced, by name, and the counts of each after the block of :meth:`Control.watching`."""

    control: Control
    ranges: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    totals: Totals | None = None

    def watch(self, name: str, tensor: Tensor) -> None:
        """Announce a tensor: each row of a matrix for itself, so that what lies between them is not."""
        parts = [tensor] if tensor.dim() < 2 or tensor.is_contiguous() else list(tensor)
        self.ranges[name] = [self.control.watch(part) for part in parts if part.numel()]

    def __getitem__(self, name: str) -> Counts:
        return self.counts[name]


class Control:
    """Of the emulated library at ``path``, which may be loaded already."""

    def __init__(self, path: str | Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.emulator_watch.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    @contextmanager
    def shuffled(self, seed: int) -> Iterator[None]:
        """Threads and blocks of every launch in the block run in another order."""
        self._library.emulator_seed(seed)
        try:
            yield
        finally:
            self._library.emulator_seed(0)

    def watch(self, tensor: Tensor) -> int:
        """Announce a contiguous tensor; its index."""
        return self._library.emulator_watch(tensor.data_ptr(), tensor.numel() * tensor.element_size())

    def counts(self, index: int) -> Counts:
        """Of what was announced as that index."""
        found = (ctypes.c_uint64 * 4)()
        self._library.emulator_counts(index, found)
        return Counts(*found)

    def totals(self) -> Totals:
        """Of all launches since the last reset."""
        found = (ctypes.c_uint64 * 5)()
        self._library.emulator_totals(found)
        return Totals(*found)

    @contextmanager
    def watching(self, **tensors: Tensor) -> Iterator[Seen]:
        """Within it only these tensors may be accessed; afterwards it says how much of each was."""
        self._library.emulator_reset()
        seen = Seen(self)
        for name, tensor in tensors.items():
            seen.watch(name, tensor)
        try:
            yield seen
            for name, indices in seen.ranges.items():
                seen.counts[name] = sum((self.counts(i) for i in indices), Counts())
            seen.totals = self.totals()
        finally:
            self._library.emulator_reset()
