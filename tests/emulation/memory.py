"""What a launch does to memory: every access checked against the tensors it was given, and counted.

Within :func:`watch` a launch of an interpreted kernel raises :class:`MemoryFault` for

* an access that is not one whole element of an argument: out of bounds, misaligned, or in the gap between the rows of a view;
* a race between programs: one writes an element that another reads or writes, in whatever order the interpreter ran them;
* a hazard within a program: an element is loaded after the program stored it, or loaded more than once and then stored. The
  interpreter runs a program as one thread; on a GPU no barrier stands between those, and another warp may be ahead;
* any atomic: their order is not fixed, and nothing on a default path may depend on it.

Elements are counted per tensor, so a test can say that something was read exactly once and not only how many bytes moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

_NOBODY, _SEVERAL = -1, -2


class MemoryFault(Exception):
    """A memory access that is wrong, or not safe on a GPU."""


class _Region:
    """The memory of one argument, or of several that overlap, by element: who read and wrote it, and how often."""

    def __init__(self, names: list[str], start: int, end: int, element_size: int) -> None:
        self.names, self.start, self.end, self.element_size = names, start, end, element_size
        count = (end - start) // element_size
        self.valid = np.zeros(count, dtype=bool)
        self.reads = np.zeros(count, dtype=np.int32)
        self.writes = np.zeros(count, dtype=np.int32)
        self.reader = np.full(count, _NOBODY, dtype=np.int64)
        self.writer = np.full(count, _NOBODY, dtype=np.int64)

    def admit(self, tensor: torch.Tensor) -> None:
        """Mark the elements of ``tensor``, a view into this region, as accessible."""
        offset = (tensor.data_ptr() - self.start) // self.element_size
        torch.from_numpy(self.valid).as_strided(tensor.shape, tensor.stride(), offset).fill_(True)

    def locate(self, addresses: np.ndarray, kind: str, program: int, size: int) -> np.ndarray:
        """Element indices of ``addresses``, all of which lie within this region's bounds."""
        offsets = (addresses - np.uint64(self.start)).astype(np.int64)
        index, rest = np.divmod(offsets, self.element_size)
        wrong = (rest != 0) | ~self.valid[index]
        if size != self.element_size or wrong.any():
            first = int(offsets[wrong][0]) if wrong.any() else int(offsets[0])
            raise MemoryFault(
                f"{kind} of {size} bytes by program {program} at byte {first} of {self.label}: not an element of it"
            )
        return index

    @property
    def label(self) -> str:
        return " = ".join(self.names)

    def load(self, index: np.ndarray, program: int) -> None:
        self._refuse(index, self.writer[index] == program, f"hazard: program {program} loads what it stored")
        self._refuse(index, self.writer[index] != _NOBODY, f"race: program {program} loads what another stores")
        np.add.at(self.reads, index, 1)
        seen = self.reader[index]
        self.reader[index] = np.where((seen == _NOBODY) | (seen == program), program, _SEVERAL)

    def store(self, index: np.ndarray, program: int) -> None:
        others = (self.writer[index] != _NOBODY) & (self.writer[index] != program)
        self._refuse(index, others, f"race: program {program} stores what another stores")
        others = (self.reader[index] != _NOBODY) & (self.reader[index] != program)
        self._refuse(index, others, f"race: program {program} stores what another loads")
        self._refuse(index, self.reads[index] > 1, f"hazard: program {program} stores what it loads more than once")
        np.add.at(self.writes, index, 1)
        self.writer[index] = program

    def _refuse(self, index: np.ndarray, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            raise MemoryFault(f"{what}: element {int(index[wrong][0])} of {self.label}")


@dataclass
class Launch:
    """One launch: its kernel, its grid's size, and what it did to each tensor argument (by the kernel's parameter name)."""

    kernel: str
    programs: int = 0
    _tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _regions: dict[str, _Region] = field(default_factory=dict)

    def reads(self, name: str) -> np.ndarray:
        """How often each element of that argument was loaded, in the argument's shape."""
        return self._counts(name, self._regions[name].reads)

    def writes(self, name: str) -> np.ndarray:
        """How often each element of that argument was stored, in the argument's shape."""
        return self._counts(name, self._regions[name].writes)

    def bytes_loaded(self, name: str | None = None) -> int:
        """Bytes loaded from one argument, or from all."""
        regions = self._unique() if name is None else [self._regions[name]]
        return sum(int(r.reads.sum()) * r.element_size for r in regions)

    def bytes_stored(self, name: str | None = None) -> int:
        """Bytes stored to one argument, or to all."""
        regions = self._unique() if name is None else [self._regions[name]]
        return sum(int(r.writes.sum()) * r.element_size for r in regions)

    def _unique(self) -> list[_Region]:
        return list({id(r): r for r in self._regions.values()}.values())

    def _counts(self, name: str, per_element: np.ndarray) -> np.ndarray:
        tensor, region = self._tensors[name], self._regions[name]
        offset = (tensor.data_ptr() - region.start) // region.element_size
        return torch.from_numpy(per_element).as_strided(tensor.shape, tensor.stride(), offset).clone().numpy()

    def _register(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        open_region: _Region | None = None
        for name, start, end in sorted(((n, *_extent(t)) for n, t in tensors.items()), key=lambda entry: entry[1:]):
            size = tensors[name].element_size()
            if open_region is None or start >= open_region.end:
                open_region = _Region([name], start, end, size)
            else:
                if size != open_region.element_size:
                    raise MemoryFault(f"{name} and {open_region.label} overlap with different element sizes")
                open_region = _Region([*open_region.names, name], open_region.start, max(end, open_region.end), size)
            self._regions |= dict.fromkeys(open_region.names, open_region)
        for name, tensor in tensors.items():
            self._regions[name].admit(tensor)

    def _access(self, kind: str, addresses: np.ndarray, size: int, program: int) -> None:
        left = addresses
        for region in self._unique():
            within = (left >= np.uint64(region.start)) & (left < np.uint64(region.end))
            if within.any():
                index = region.locate(left[within], kind, program, size)
                region.load(index, program) if kind == "load" else region.store(index, program)
                left = left[~within]
        if left.size:
            raise MemoryFault(
                f"{kind} of {size} bytes by program {program} is outside every argument: {self._nearest(left[0])}"
            )

    def _nearest(self, address: np.uint64) -> str:
        def distance(region: _Region) -> int:
            return max(region.start - int(address), int(address) - region.end)

        region = min(self._unique(), key=distance)
        return f"byte {int(address) - region.start} of {region.label}, which has {region.end - region.start}"


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte of a tensor and the one after its last."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (span if tensor.numel() else 0) * tensor.element_size()


class _Watch:
    """The watch that is on, if any, and the launch that is running under it."""

    launches: list[Launch] | None = None
    running: Launch | None = None
    shuffle: np.random.Generator | None = None
    order: np.ndarray | None = None


@contextmanager
def watch(shuffle_seed: int | None = None) -> Iterator[list[Launch]]:
    """Check and count every launch inside; yields the list that they are appended to.

    With a ``shuffle_seed`` the programs of each launch run in a random order in place of ascending.
    """
    if _Watch.launches is not None:
        raise RuntimeError("emulation.watch() cannot be nested")
    _Watch.launches = []
    _Watch.shuffle = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
    try:
        yield _Watch.launches
    finally:
        _Watch.launches = _Watch.shuffle = None


def install(interpreter) -> None:
    """Route the launches and memory operations of triton's interpreter through the watch that is on."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    stock_launch, stock_load, stock_store = executor.__call__, builder.create_masked_load, builder.create_masked_store
    stock_set_dim, stock_set_index = builder.set_grid_dim, builder.set_grid_idx

    def launch(self, *args, **kwargs):
        if _Watch.launches is None:
            return stock_launch(self, *args, **kwargs)
        given = dict(zip(self.arg_names, args)) | kwargs  # noqa: B905 - what follows the positional ones is in kwargs
        _Watch.running = Launch(self.fn.__name__)
        _Watch.running._register({name: value for name, value in given.items() if isinstance(value, torch.Tensor)})
        try:
            stock_launch(self, *args, **kwargs)
        finally:
            finished, _Watch.running, _Watch.order = _Watch.running, None, None
        _Watch.launches.append(finished)

    def set_grid_dim(self, *grid):
        stock_set_dim(self, *grid)
        if _Watch.running is not None:
            _Watch.running.programs = int(np.prod(grid))
            if _Watch.shuffle is not None:
                _Watch.order = _Watch.shuffle.permutation(_Watch.running.programs)

    def set_grid_idx(self, *index):
        if _Watch.order is not None:
            index = np.unravel_index(_Watch.order[np.ravel_multi_index(index, self.grid_dim)], self.grid_dim)
        stock_set_index(self, *map(int, index))

    def observe(self, kind, pointers, mask):
        if _Watch.running is not None:
            addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.uint64)
            size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            program = int(np.ravel_multi_index(self.grid_idx, self.grid_dim))
            _Watch.running._access(kind, addresses, size, program)

    def create_masked_load(self, pointers, mask, *rest):
        observe(self, "load", pointers, mask)
        return stock_load(self, pointers, mask, *rest)

    def create_masked_store(self, pointers, value, mask, *rest):
        observe(self, "store", pointers, mask)
        return stock_store(self, pointers, value, mask, *rest)

    def refuse_atomics(stock):
        def atomic(self, *args, **kwargs):
            if _Watch.running is not None:
                raise MemoryFault("atomics are not deterministic and are not used on a default path")
            return stock(self, *args, **kwargs)

        return atomic

    executor.__call__ = launch
    for method in (set_grid_dim, set_grid_idx, create_masked_load, create_masked_store):
        setattr(builder, method.__name__, method)
    for name in ("create_atomic_rmw", "create_atomic_cas"):
        setattr(builder, name, refuse_atomics(getattr(builder, name)))
