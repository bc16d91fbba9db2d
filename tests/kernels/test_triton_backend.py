"""Selection of the Triton backend, and the reasons it gives where it cannot run."""

import os
import subprocess
import sys

import pytest
import torch

from fastpref.backends import LogitTransform, RowState, load, select

from ..emulation import require_triton

require_triton()

from fastpref.backends.triton import TritonBackend  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_is_selected_by_name_in_the_interpreter(dtype) -> None:
    assert isinstance(select("triton", CPU, dtype), TritonBackend)


def test_agrees_with_eager() -> None:
    logits, targets = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)), torch.tensor([0, -1, 199])
    found = []
    for name in ("triton", "eager"):
        backend = select(name, CPU, torch.float32)
        state, grad = RowState.start(3, CPU, torch.float32), torch.empty_like(logits)
        backend.row_stats(logits, targets, state, col0=0, transform=LogitTransform(softcap=3.0))
        logps, lse = state.finish(targets)
        coef = torch.tensor([1.0, 1.0, -2.0])
        backend.row_grad(logits, targets, lse, coef, coef, grad, col0=0, transform=LogitTransform(softcap=3.0))
        found.append((logps, lse, grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_auto_prefers_it_on_a_gpu_only() -> None:
    assert select(None, CPU, torch.float32).name != "triton"


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [
        ("cpu", torch.float64, "found torch.float64"),
        ("cuda", torch.int64, "found torch.int64"),
        ("mps", torch.float32, "CUDA and ROCm GPUs, found device 'mps'"),
        ("cuda", torch.bfloat16, None),
    ],
)
def test_why_not(device: str, dtype: torch.dtype, reason: str | None) -> None:
    found = TritonBackend().why_not(torch.device(device), dtype)
    assert found is None if reason is None else reason in found


def test_a_named_backend_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"backend='triton' cannot be used: .*torch\.float64"):
        select("triton", CPU, torch.float64)


def test_reason_without_the_interpreter() -> None:
    program = (
        "import torch; from fastpref.backends import load\n"
        "print(load('triton').why_not(torch.device('cpu'), torch.float32))"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "Triton needs a GPU; TRITON_INTERPRET=1 runs its kernels on the CPU for tests"


def test_reason_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"triton cannot be imported \(.*triton.*\); it comes with"):
        TritonBackend()


def test_load_caches_one_backend() -> None:
    assert load("triton") is load("triton")
