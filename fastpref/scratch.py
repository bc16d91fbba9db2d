"""Memory of the vocabulary loop: scratch that is kept from call to call, and large fresh outputs on huge pages.

First touch is the cost of fresh memory: the kernel zeroes every page, at a fraction of the bandwidth of memory that is already mapped
(``bench/first_touch.py`` prints both). Scratch on the CPU is therefore taken from a pool and goes back to it when the last tensor that
uses it is gone, whoever holds that tensor (a generator, an exception's traceback, another thread): a block is never handed out twice.
Gradients and other outputs are always fresh; from :data:`LARGE_BYTES` on they ask for huge pages before they are touched.

Limits: the pool holds one process's blocks of at least :data:`POOLED_BYTES`, on the CPU; smaller requests and other devices go to torch's
own allocators. What it keeps, used and unused, stays within the most that was in use at once during the last requests
(:data:`WINDOW`); :func:`release` gives back all that is unused. A forked child starts with an empty pool.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import work

POOLED_BYTES = 1 << 20
"""Requests below this are left to torch: malloc reuses them without going back to the kernel."""

LARGE_BYTES = 16 << 20
"""Fresh outputs from this size on ask for huge pages."""

WINDOW = 256
"""Requests over which the most bytes in use at once are remembered, for one to two windows."""

HUGE_PAGE = 2 << 20


class _Pool:
    """Blocks of mapped memory; a block is in ``free`` or ``returned``, or belongs to exactly one lease."""

    def __init__(self) -> None:
        # Leases end in whatever thread drops the last tensor, garbage collection inside the lock included: they only append, which is
        # atomic, and the next request sorts what came back.
        self.returned: deque[np.ndarray[Any, Any]] = deque()
        self.free: list[np.ndarray[Any, Any]] = []
        self.lock = threading.RLock()
        self.used = 0
        self.requests = 0
        self.peak = self.previous_peak = 0

    def take(self, nbytes: int) -> np.ndarray[Any, Any]:
        """``nbytes`` of uninitialised memory; it comes back when the array and everything that views it are gone."""
        size = HUGE_PAGE * math.ceil(nbytes / HUGE_PAGE)
        with self.lock:
            self._sort_returned()
            fitting = [i for i, block in enumerate(self.free) if size <= block.size <= 2 * size]
            best = min(fitting, key=lambda i: self.free[i].size, default=None)
            block = None if best is None else self.free.pop(best)
            self.used += size if block is None else block.size
            self.requests += 1
            if self.requests % WINDOW == 0:
                self.previous_peak, self.peak = self.peak, 0
            self.peak = max(self.peak, self.used)
            self._trim()
        if block is None:
            try:
                block = _map(size)
            except BaseException:
                with self.lock:
                    self.used -= size
                raise
        lease = block[:nbytes]
        # numpy collapses chains of views: the lease itself, not the block, is what the tensors keep alive.
        weakref.finalize(lease, self.returned.append, block).atexit = False
        return lease

    def _sort_returned(self) -> None:
        while self.returned:
            block = self.returned.popleft()
            self.used -= block.size
            self.free.append(block)

    def _trim(self) -> None:
        """Drop the unused blocks, oldest first, that the recent peak does not account for."""
        kept = sum(block.size for block in self.free)
        while self.free and self.used + kept > max(self.peak, self.previous_peak):
            kept -= self.free.pop(0).size

    def release(self) -> int:
        """Drop every unused block; the bytes they had."""
        with self.lock:
            self._sort_returned()
            dropped = sum(block.size for block in self.free)
            self.free.clear()
            self.peak = self.previous_peak = self.used
        return dropped


def _map(size: int) -> np.ndarray[Any, Any]:
    """Private zero pages on a huge-page boundary (a shared mapping would let a forked child write into its parent's scratch)."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.empty(size, dtype=np.uint8)
    mapped = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block = np.frombuffer(mapped, dtype=np.uint8)
    start = -block.ctypes.data % HUGE_PAGE
    block = block[start : start + size]
    _ask_for_huge_pages(block.ctypes.data, size)
    return block


_pool = _Pool()


def _start_afresh() -> None:
    """In a forked child: another thread may have held the lock, and its blocks have no owner here."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def take(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised flat tensor for scratch, from the pool where it is large and on the CPU. Never to be given to a caller."""
    nbytes = elements * dtype.itemsize
    if device.type != "cpu" or nbytes < POOLED_BYTES:
        return torch.empty(elements, dtype=dtype, device=device)
    block = torch.from_numpy(_pool.take(nbytes))
    work.made(block)
    return block.view(dtype)


def release() -> int:
    """Give the pool's unused memory back to the system, and return how many bytes that was.

    Example:
        >>> from fastpref import scratch
        >>> freed = scratch.release()
        >>> scratch.release()
        0
    """
    return _pool.release()


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor that is torch's own, for outputs; on huge pages where it is large and the system gives them."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    nbytes = tensor.numel() * dtype.itemsize
    if device.type == "cpu" and nbytes >= LARGE_BYTES:
        _ask_for_huge_pages(tensor.data_ptr(), nbytes)
    return tensor


@cache
def _madvise() -> Any:
    """libc's ``madvise`` on Linux, else ``None``."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return function


def _ask_for_huge_pages(address: int, nbytes: int) -> None:
    """Where the system has them ready: a hint, whose refusal changes nothing but speed."""
    madvise = _madvise()
    first, last = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if madvise is not None and last > first:
        madvise(first, last - first, mmap.MADV_HUGEPAGE)
