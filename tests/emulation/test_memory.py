"""The memory checker catches planted bugs, lets correct kernels pass, and counts what they move."""

import numpy as np
import pytest
import torch

from . import MemoryFault, require_triton, watch

require_triton()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402


@triton.jit
def shifted_copy(x_ptr, out_ptr, count, limit, load_shift, store_shift, BLOCK: tl.constexpr):
    """``out[i + store_shift] = x[i + load_shift]`` for ``i < limit``; right with ``limit = count`` and no shifts."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i + load_shift, mask=i < limit)
    tl.store(out_ptr + i + store_shift, x, mask=i < limit)


@triton.jit
def copy_rows(x_ptr, x_stride, out_ptr, columns, BLOCK: tl.constexpr):
    j = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * x_stride + j, mask=j < columns)
    tl.store(out_ptr + row * columns + j, x, mask=j < columns)


@triton.jit
def claim(out_ptr):
    tl.store(out_ptr, tl.program_id(0).to(tl.float32))


@triton.jit
def load_after_store(x_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)
    tl.store(x_ptr + BLOCK, tl.load(x_ptr + 3))


@triton.jit
def load_twice_then_store(x_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    first = tl.load(x_ptr)
    tl.store(x_ptr + i, tl.load(x_ptr + i) - first)


@triton.jit
def accumulate(x_ptr, out_ptr):
    tl.atomic_add(out_ptr, tl.load(x_ptr + tl.program_id(0)))


@triton.jit
def add_one(x_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)


@triton.jit
def read_as_bytes(x_ptr, out_ptr):
    tl.store(out_ptr, tl.load(x_ptr.to(tl.pointer_type(tl.int8)) + 1))


def run_shifted_copy(limit: int = 20, load_shift: int = 0, store_shift: int = 0) -> None:
    with watch():
        shifted_copy[(3,)](torch.zeros(20), torch.zeros(20), 20, limit, load_shift, store_shift, BLOCK=8)


def test_out_of_bounds_load() -> None:
    with pytest.raises(MemoryFault, match="load of 4 bytes by program 2 is outside every argument"):
        run_shifted_copy(load_shift=1)


def test_out_of_bounds_store() -> None:
    with pytest.raises(MemoryFault, match="store of 4 bytes by program 0 is outside every argument: byte -4"):
        run_shifted_copy(store_shift=-1)


def test_missing_mask() -> None:
    with pytest.raises(MemoryFault, match="outside every argument"):
        run_shifted_copy(limit=24)


def test_gap_between_rows_is_out_of_bounds() -> None:
    padded = torch.zeros(4, 16)
    with watch() as launches:
        copy_rows[(4,)](padded[:, :10], 16, torch.zeros(4, 10), 10, BLOCK=16)
    assert launches[0].bytes_loaded("x_ptr") == 4 * 10 * 4
    with pytest.raises(MemoryFault, match="not an element of it"), watch():
        copy_rows[(4,)](padded[:, :10], 16, torch.zeros(4, 11), 11, BLOCK=16)


def test_access_of_another_size() -> None:
    with pytest.raises(MemoryFault, match="load of 1 bytes by program 0 at byte 1 of x_ptr"), watch():
        read_as_bytes[(1,)](torch.zeros(2), torch.zeros(1, dtype=torch.int8))


def test_race_between_stores() -> None:
    with pytest.raises(MemoryFault, match="race: program 1 stores what another stores: element 0 of out_ptr"), watch():
        claim[(2,)](torch.zeros(1))


@pytest.mark.parametrize("shuffle_seed", [None, 0, 1])
def test_race_between_load_and_store_in_any_order(shuffle_seed: int | None) -> None:
    x = torch.zeros(32)
    with pytest.raises(MemoryFault, match="race"), watch(shuffle_seed):
        shifted_copy[(3,)](x, x, 24, 24, 1, 0, BLOCK=8)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(load_after_store, "hazard: program 0 loads what it stored"), (load_twice_then_store, "more than once")],
)
def test_hazard_within_a_program(kernel: object, message: str) -> None:
    with pytest.raises(MemoryFault, match=message), watch():
        kernel[(1,)](torch.zeros(9), BLOCK=8)


def test_atomics_are_refused() -> None:
    with pytest.raises(MemoryFault, match="atomics"), watch():
        accumulate[(2,)](torch.zeros(2), torch.zeros(1))


def test_overlap_with_another_element_size() -> None:
    x = torch.zeros(20)
    with pytest.raises(MemoryFault, match="overlap"), watch():
        shifted_copy[(3,)](x, x.view(torch.float16), 20, 20, 0, 0, BLOCK=8)


def test_counts_a_copy() -> None:
    x = torch.arange(20, dtype=torch.float16)
    out = torch.zeros_like(x)
    with watch() as launches:
        shifted_copy[(3,)](x, out, 20, 20, 0, 0, BLOCK=8)
    (launch,) = launches
    assert torch.equal(out, x)
    assert (launch.kernel, launch.programs) == ("shifted_copy", 3)
    assert (launch.bytes_loaded("x_ptr"), launch.bytes_stored("x_ptr")) == (40, 0)
    assert (launch.bytes_loaded("out_ptr"), launch.bytes_stored("out_ptr")) == (0, 40)
    assert np.array_equal(launch.reads("x_ptr"), np.ones(20))


def test_counts_an_update_in_place_once() -> None:
    x = torch.zeros(16)
    with watch() as launches:
        add_one[(2,)](x, BLOCK=8)
        shifted_copy[(2,)](x, x, 16, 16, 0, 0, BLOCK=8)
    assert [(launch.bytes_loaded(), launch.bytes_stored()) for launch in launches] == [(64, 64), (64, 64)]
    assert torch.equal(x, torch.ones(16))


def test_is_off_outside_the_block_and_after_a_fault() -> None:
    with pytest.raises(MemoryFault), watch():
        claim[(2,)](torch.zeros(1))
    claim[(2,)](torch.zeros(1))
    with watch() as launches:
        add_one[(1,)](torch.zeros(8), BLOCK=8)
    assert len(launches) == 1


def test_watches_do_not_nest() -> None:
    with watch(), pytest.raises(RuntimeError, match="nested"), watch():
        pass
