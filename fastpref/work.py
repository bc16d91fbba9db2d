"""Counting of what a call does: FLOPs of its GEMMs, and the bytes that it has allocated at its peak.

    with count_gemm() as work:
        fastpref.linear_preference_loss(...).loss.backward()
    work.flops, work.peak_bytes

For tests, benchmarks and the curious; nothing in the package depends on what is found. FLOPs are two per multiplication of every matrix product
that torch runs, inside this package's operators too, and what native code adds by :func:`add`. Bytes are those of torch tensors that came
to life since the count began, on any device, those of :mod:`fastpref.scratch` among them (:func:`made`); what a library allocates for itself is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OPERANDS = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.addmm_: 1,
    torch.ops.aten.baddbmm: 1,
    torch.ops.aten.baddbmm_: 1,
}
"""Where the factors begin in an operator's arguments."""

_counting: list[Work] = []


class Work(TorchDispatchMode):
    """What was counted.

    Attributes:
        flops: of all matrix products.
        calls: matrix products.
        live_bytes: of tensors made since the count began that are still alive.
        peak_bytes: the most that ``live_bytes`` was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.calls = self.live_bytes = self.peak_bytes = 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):  # not made here, also where an operator returns it
            if isinstance(given, Tensor):
                self._seen.setdefault(given.untyped_storage(), 0)
        if func.namespace == "fastpref":
            # The mode is off inside its own handler: the operator's kernel is run with it on, to see what it calls.
            with self:
                result = func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if func.overloadpacket in _OPERANDS:
            a, b = args[_OPERANDS[func.overloadpacket] :][:2]
            self.count(2 * a.numel() * b.shape[-1])
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._made(made.untyped_storage())
        return result

    def count(self, flops: int) -> None:
        """Add a matrix product of so many FLOPs."""
        self.flops += flops
        self.calls += 1

    def _made(self, storage: Any) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        weakref.finalize(storage, self._freed, size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _freed(self, size: int) -> None:
        self.live_bytes -= size


@contextmanager
def count_gemm() -> Iterator[Work]:
    """Count what is run by this thread inside the block, and in backward passes that it starts there on the CPU."""
    with Work() as work:
        _counting.append(work)
        try:
            yield work
        finally:
            _counting.remove(work)


def add(flops: int) -> None:
    """Report a matrix product that torch does not see to every count under way."""
    for work in _counting:
        work.count(flops)


def made(tensor: Tensor) -> None:
    """Report a tensor in memory that torch did not allocate to every count under way."""
    storage = tensor.untyped_storage()
    for work in _counting:
        work._seen.pop(storage, None)  # wrapping the memory in a tensor looks like a tensor that was given
        work._made(storage)
