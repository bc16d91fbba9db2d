"""The emulator of CUDA kernels: right kernels are right in it, bugs planted in them are found, matrix operations are those of the PTX manual."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .cuda import building
from .cuda.building import EMULATOR, FOUND_BY_SANITIZER, emulated_program, run_program, why_not_sanitized

pytestmark = pytest.mark.skipif(building.compiler() is None, reason="no C++ compiler")

RIGHT, WRONG, FOUND = 0, 1, 3
KINDS = list(building.SANITIZERS)


def planted(kind: str, bug: str, seed: int, *more: str) -> subprocess.CompletedProcess[str]:
    if reason := why_not_sanitized(kind):
        pytest.skip(reason)
    return run_program(emulated_program("planted.cpp", kind, with_kernels=False), bug, str(seed), *more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("more", [[], ["watch"]])
def test_right_kernels_are_right(kind, seed, more) -> None:
    done = planted(kind, "none", seed, *more)
    assert done.returncode == RIGHT, done.stdout + done.stderr[:4000]
    assert done.stdout.splitlines() == ["log_sum: right", "multiply, bf16: right", "multiply, fp16: right"]
    assert done.stderr == ""


# Which program finds it, with which seed, how it ends, and what it says.
FINDS = [
    ("no_barrier", "plain", 0, WRONG, "row 0 is"),
    ("no_barrier", "thread", 0, FOUND_BY_SANITIZER, "data race"),
    ("no_fence_before_count", "thread", 0, FOUND_BY_SANITIZER, "in load<float>"),
    ("no_fence_after_count", "thread", 0, FOUND_BY_SANITIZER, "in load<float>"),
    ("plain_count", "thread", 0, FOUND_BY_SANITIZER, "in load<unsigned int>"),
    ("no_count", "plain", 1, WRONG, "row 1 is"),
    ("no_count", "thread", 0, FOUND_BY_SANITIZER, "data race"),
    ("one_too_few", "plain", 0, WRONG, "row 0 is"),
    ("load_beyond", "plain watch", 0, FOUND, "load outside of the memory that was announced"),
    ("load_beyond", "address", 0, FOUND_BY_SANITIZER, "heap-buffer-overflow"),
    ("store_beyond", "plain watch", 0, FOUND, "store outside of the memory that was announced"),
    ("store_beyond", "address", 0, FOUND_BY_SANITIZER, "heap-buffer-overflow"),
    ("small_shared", "address", 0, FOUND_BY_SANITIZER, "heap-buffer-overflow"),
    ("uninitialised_shared", "plain", 0, WRONG, "nan"),
    ("uninitialised_shared", "address", 0, WRONG, "nan"),
    ("misaligned", "plain", 0, FOUND, "misaligned access of 16 bytes"),
    ("divergent_barrier", "plain", 0, FOUND, "the threads part: 127 at __syncthreads, 1 ended"),
    ("wrong_mask", "plain", 0, FOUND, "__shfl_xor_sync: the source lane is not in the mask"),
    ("partial_shuffle", "plain", 0, FOUND, "meet in different operations"),
    ("shuffle_as_barrier", "thread", 0, FOUND_BY_SANITIZER, "data race"),
    ("no_wait", "plain", 0, WRONG, "nan"),
    ("late_wait", "plain", 0, WRONG, "nan"),
    ("no_tile_barrier", "thread", 0, FOUND_BY_SANITIZER, "data race"),
    ("small_dynamic", "plain", 0, FOUND, "wrote beyond the launch's dynamic shared memory"),
    ("small_dynamic", "address", 0, FOUND_BY_SANITIZER, "heap-buffer-overflow"),
]


@pytest.mark.parametrize(("bug", "how", "seed", "code", "says"), FINDS)
def test_planted_bugs_are_found(bug, how, seed, code, says) -> None:
    kind, *more = how.split()
    done = planted(kind, bug, seed, *more)
    assert done.returncode == code, done.stdout + done.stderr[:4000]
    assert says in done.stdout + done.stderr


def test_an_order_that_hides_a_bug() -> None:
    """Blocks in their order: what the seeds are for."""
    assert planted("plain", "no_count", 0).returncode == RIGHT


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_emulator_finds_is_not_found_again_by_a_sanitizer(kind) -> None:
    """A block that fails leaves fibers in the middle; the sanitizers must not take offence at what comes after it."""
    for bug in ("divergent_barrier", "wrong_mask", "partial_shuffle", "misaligned"):
        done = planted(kind, bug, 1)
        assert done.returncode == FOUND, done.stdout + done.stderr[:4000]
        assert done.stderr == ""


def test_every_bug_is_looked_for() -> None:
    names = re.findall(r'"(\w+)"', (EMULATOR / "reference.h").read_text().split("kBugNames[] = {")[1].split("}")[0])
    assert set(names) - {"none"} == {bug for bug, *_ in FINDS}


@pytest.fixture(scope="module")
def primitives(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("primitives")
    objects = building.compile_objects(building.ROOT / "csrc", [EMULATOR / "primitives.cpp"], ["-O1", "-fPIC"], folder)
    subprocess.run([building.compiler(), "-shared", *map(str, objects), "-o", str(folder / "x.so")], check=True)
    library = ctypes.CDLL(str(folder / "x.so"))
    library.error_text.restype = ctypes.c_char_p
    return library


def aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 16, np.uint8)
    at = -memory.ctypes.data % 16
    return memory[at : at + size].view(dtype).reshape(shape)


def at(values: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def test_load_matrices(primitives) -> None:
    rows = aligned((32, 8), "u2")  # matrix, then its row; 16 bytes each
    rows[:] = np.arange(256).reshape(32, 8)
    out = np.zeros((32, 4), np.uint32)
    assert primitives.run_load_four(at(rows), at(out)) == 0, primitives.error_text()
    pairs = out.view(np.uint16).reshape(32, 4, 2)
    for lane in range(32):
        for matrix in range(4):
            row, column = lane // 4, 2 * (lane % 4)
            assert pairs[lane, matrix].tolist() == rows[8 * matrix + row, column : column + 2].tolist()


@pytest.mark.parametrize("half", [True, False])
def test_multiply_add(primitives, half) -> None:
    """Fragments of m16n8k16 in the PTX manual's words: groupID = lane / 4, threadID_in_group = lane % 4."""
    random = np.random.default_rng(0)

    def bits(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16).view(np.uint16) if half else (x.view(np.uint32) >> 16).astype(np.uint16)

    def value(x: np.ndarray) -> np.ndarray:
        return (
            x.view(np.float16).astype(np.float64)
            if half
            else (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        )

    a, b, c = (random.standard_normal(shape, np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
    a16, b16 = bits(a), bits(b)
    fragment_a, fragment_b = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint16)
    fragment_c, place = np.zeros((32, 4), np.float32), {}
    for lane in range(32):
        group, thread = lane // 4, lane % 4
        for i in range(8):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            fragment_a[lane, i] = a16[row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)]
        for i in range(4):
            fragment_b[lane, i] = b16[thread * 2 + (i & 1) + (8 if i >= 2 else 0), group]
            place[lane, i] = (group if i < 2 else group + 8), thread * 2 + (i & 1)
            fragment_c[lane, i] = c[place[lane, i]]
    assert primitives.run_multiply_once(half, at(fragment_a), at(fragment_b), at(fragment_c)) == 0, (
        primitives.error_text()
    )
    expected = value(a16) @ value(b16) + c
    found = np.zeros((16, 8))
    for where, index in place.items():
        found[index] = fragment_c[where]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bytes_copied", [0, 6, 16])
def test_copies_land_when_they_are_waited_for(primitives, bytes_copied) -> None:
    """Before that their bytes are NaN. The newer of two groups, which is empty, may be pending."""
    source, out = aligned((16,), "u1"), aligned((3, 16), "u1")
    source[:] = np.arange(1, 17)
    assert primitives.run_copy_once(at(source), at(out), bytes_copied) == 0, primitives.error_text()
    expected = [i + 1 if i < bytes_copied else 0 for i in range(16)]
    assert out.tolist() == [[255] * 16, [255] * 16, expected]


def test_copies_of_odd_sizes_are_refused(primitives) -> None:
    source, out = aligned((16,), "u1"), aligned((3, 16), "u1")
    assert primitives.run_copy_once(at(source), at(out), 17) != 0
    assert b"a copy of 17 bytes" in primitives.error_text()


def test_launches_that_no_gpu_takes(primitives) -> None:
    def run(blocks: int, threads: int, shared: int, asked: int = 0) -> int:
        return primitives.run_nothing(blocks, threads, ctypes.c_size_t(shared), asked)

    assert run(1, 1024, 48 << 10) == 0
    for launch, says in [((1, 1025, 0), b"a block that"), ((1, 0, 0), b"a block that"), ((0, 32, 0), b"a grid that")]:
        assert run(*launch) != 0
        assert says in primitives.error_text()
    assert run(1, 32, (48 << 10) + 16) != 0
    assert b"more dynamic shared memory than cudaFuncSetAttribute asked for" in primitives.error_text()
    assert run(1, 32, 64 << 10, 64 << 10) == 0
    assert run(1, 32, 0, 228 << 10) == 1  # cudaErrorInvalidValue
