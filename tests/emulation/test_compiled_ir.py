"""The execution of compiled IR itself: right where a kernel is right, and an error where it is not.

TRITON_INTERPRET=0 pytest tests/emulation/test_compiled_ir.py
"""

import pytest
import torch

from . import compiled_ir

if (reason := compiled_ir.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

import triton
import triton.language as tl


@triton.jit
def _product(x_ptr, y_ptr, out_ptr, inner, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    i, j, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, inner, K):
        x = tl.load(x_ptr + i[:, None] * inner + (start + k)[None, :])
        y = tl.load(y_ptr + (start + k)[:, None] + j[None, :] * inner)
        total = tl.dot(x, y, total)
    tl.store(out_ptr + i[:, None] * N + j[None, :], total)


@triton.jit
def _copy(x_ptr, out_ptr, count, MASKED: tl.constexpr, APART: tl.constexpr, BLOCK: tl.constexpr):
    j = tl.program_id(0) * APART + tl.arange(0, BLOCK)
    inside = j < count if MASKED else j < count + BLOCK
    tl.store(out_ptr + j, tl.load(x_ptr + j, mask=inside) + tl.program_id(0), mask=inside)


@pytest.mark.parametrize(
    ("target", "instruction"), [("sm_80", "tt.dot"), ("sm_90", "ttng.warp_group_dot"), ("sm_100", "ttng.tc_gen5_mma")]
)
def test_pipelined_product_on_tensor_cores(target, instruction) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, 192, generator=g).bfloat16() for rows in (64, 128))
    out = torch.full((64, 128), torch.nan)
    with compiled_ir.executing(target) as launches:
        _product[(1,)](x, y, out, 192, 64, 128, 32, num_warps=4, num_stages=3)
    torch.testing.assert_close(out.double(), x.double() @ y.double().T, rtol=1e-5, atol=1e-4)
    assert f'"{instruction}"' in launches[0].ir
    assert "async_copy" in launches[0].ir  # to shared memory, ahead of its use
    if target != "sm_100":  # which has barriers of another kind
        from ttsem import races

        (without,) = races.detect(races.strip_barriers(launches[0].ir))
        assert without.races, "the barriers that the compiler set are not needed, or their absence is not seen"


def copy(programs: int = 3, masked: bool = True, apart: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    x, out = torch.arange(70.0), torch.full((70,), -1.0)
    with compiled_ir.executing("sm_90") as launches:
        _copy[(programs,)](x, out, 70, masked, apart, 32, num_warps=1)
    assert launches[0].programs == programs
    return x, out


def test_values_are_written_back() -> None:
    x, out = copy()
    assert torch.equal(out, x + torch.arange(70) // 32)


def test_an_access_outside_of_a_tensor_is_an_error() -> None:
    from ttsem import MemoryFault

    with pytest.raises(MemoryFault):
        copy(masked=False)


def test_programs_that_write_the_same_element_are_an_error() -> None:
    with pytest.raises(AssertionError, match="write-write"):
        copy(apart=16)


def test_launches_are_triton_s_again_afterwards() -> None:
    stock = triton.runtime.JITFunction.run
    copy()
    assert triton.runtime.JITFunction.run is stock
