"""The repaired interpreter computes in bfloat16 as torch does, and says why where it cannot be repaired."""

import numpy as np
import pytest
import torch

from . import require_triton, triton_interpreter
from .bfloat16 import from_float32, to_float32

require_triton()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

# Ties either way, a carry into the exponent, the largest finite value, overflow, a subnormal, signed zero.
EDGES = [
    1 + 2**-8,
    1 + 3 * 2**-8,
    1 + 2**-8 + 2**-20,
    2 - 2**-9,
    3.3895e38,
    3.4e38,
    1e-40,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
]


@triton.jit
def arithmetic(a_ptr, b_ptr, out_ptr, reduced_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(a_ptr + i), tl.load(b_ptr + i)
    tl.store(out_ptr + i, a + b)
    tl.store(out_ptr + N + i, a * b)
    tl.store(out_ptr + 2 * N + i, -a)
    tl.store(out_ptr + 3 * N + i, tl.where(a > b, a, b))
    tl.store(out_ptr + 4 * N + i, (a.to(tl.float32) / 3).to(tl.bfloat16))
    tl.store(reduced_ptr, tl.sum(a.to(tl.float32), axis=0))
    tl.store(reduced_ptr + 1, tl.max(b, axis=0))


@triton.jit
def product(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out_ptr + i, tl.dot(tl.load(a_ptr + i), tl.load(b_ptr + i)))


def test_rounding_is_torchs() -> None:
    values = np.concatenate([np.array(EDGES), np.random.default_rng(0).standard_normal(2000) * 1e3]).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16()
    got = torch.from_numpy(from_float32(values).view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    assert np.array_equal(to_float32(from_float32(values)), expected.float().numpy(), equal_nan=True)


def test_arithmetic_is_torchs() -> None:
    n = 64
    a, b = torch.randn(2, n, generator=torch.Generator().manual_seed(0)).bfloat16()
    out, reduced = torch.empty(5, n, dtype=torch.bfloat16), torch.empty(2)
    arithmetic[(1,)](a, b, out, reduced, N=n)
    expected = torch.stack([a + b, a * b, -a, torch.maximum(a, b), (a.float() / 3).bfloat16()])
    assert torch.equal(out, expected)
    torch.testing.assert_close(reduced, torch.stack([a.float().sum(), b.float().max()]))


def test_dot_multiplies_values() -> None:
    a, b = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = torch.empty(16, 16)
    product[(1,)](a, b, out, N=16)
    torch.testing.assert_close(out, a.float() @ b.float())


@pytest.mark.parametrize(
    ("version", "interpret", "reason"), [("3.8.0", True, "written for triton 3.9.0"), ("3.9.0", False, "was not set")]
)
def test_says_why_not(monkeypatch: pytest.MonkeyPatch, version: str, interpret: bool, reason: str) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", interpret)
    assert reason in triton_interpreter.why_not()
