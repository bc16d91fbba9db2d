"""The device that the tests run on."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest
import torch

from fastpref.backends import load

T = TypeVar("T")


class Device:
    """Where tensors go, and which of two sizes a test takes."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.torch = torch.device("cuda" if on_gpu else "cpu")

    def pick(self, on_gpu: T, in_interpreter: T) -> T:
        """A size for each."""
        return on_gpu if self.on_gpu else in_interpreter

    def only_on_gpu(self, twin: str) -> None:
        """Skip in the interpreter; ``twin`` is the test that stands in."""
        if not self.on_gpu:
            pytest.skip(f"needs a GPU; {twin} stands in for it")


@pytest.fixture
def device() -> Device:
    if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") == "0":
        pytest.importorskip("triton")
        return Device(on_gpu=True)
    from tests.emulation import require_triton

    require_triton()
    return Device(on_gpu=False)


@pytest.fixture(params=["triton", "cuda"])
def backend(request: pytest.FixtureRequest, device: Device) -> str:
    """The name of each backend for GPUs; without one it runs in its emulation."""
    if request.param == "cuda" and not device.on_gpu:
        from tests.emulation.cuda import require_emulated

        require_emulated()
    elif isinstance(found := load(request.param), str):
        pytest.skip(found)
    elif (reason := found.why_not(device.torch, torch.float32)) is not None:
        pytest.skip(reason)
    return request.param
