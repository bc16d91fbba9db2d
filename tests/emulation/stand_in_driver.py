"""A stand-in for the GPU driver: triton compiles for a GPU that is not here, and whoever asked gets the launches.

Needs a process in which triton was imported without ``TRITON_INTERPRET``: kernels are compiled here, not interpreted. Written against
private names of one triton version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import JITFunction, driver

from fastpref.kernels import tiling

VERSION = "3.9.0"

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),  # A100
    "sm_89": GPUTarget("cuda", 89, 32),  # RTX 4090, L40S
    "sm_90": GPUTarget("cuda", 90, 32),  # H100, H200
    "sm_100": GPUTarget("cuda", 100, 32),  # B200
    "sm_120": GPUTarget("cuda", 120, 32),  # RTX 5090
    "gfx90a": GPUTarget("hip", "gfx90a", 64),  # MI250
    "gfx942": GPUTarget("hip", "gfx942", 64),  # MI300X
    "gfx950": GPUTarget("hip", "gfx950", 64),  # MI355X
}

Launch = Callable[[JITFunction, tuple, Any, dict[str, Any]], Any]
"""What to do instead of a launch, from the kernel, its positional arguments, the grid and its keyword arguments."""


class StandInDriver(DriverBase):
    """What triton asks of a driver before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> str:
        return str(self.target)  # the key of triton's in-process kernel cache

    def get_current_stream(self, device: object) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> None:
        return None


@contextlib.contextmanager
def standing_in(target: str, launch: Launch) -> Iterator[None]:
    """In the block triton's target is the one named, and every launch of a kernel is a call of ``launch``."""
    stock = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return stock(self, *args, grid=grid, warmup=True, **kwargs) if warmup else launch(self, args, grid, kwargs)

    before = driver._active  # None where nothing has asked for a driver: this machine need not have one
    driver.set_active(StandInDriver(TARGETS[target]))
    tiling.forget_device()
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = stock
        driver._active = before
        tiling.forget_device()
