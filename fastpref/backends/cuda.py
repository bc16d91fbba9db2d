"""The CUDA C++ kernels (``csrc/cuda``), compiled ahead of time: nothing is compiled when they are first used.

Contract: see :class:`fastpref.backends.base.Backend`. The kernels are a library of their own with a C interface, which ``fastpref._C`` loads;
neither a GPU nor a driver is needed for that. ``FASTPREF_CUDA_LIBRARY`` names another file, such as the one that the tests' emulator makes of the same
sources, whose "device" is the CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .cuda_head import CudaHead
from .cuda_rows import CudaRows
from .native import load_native

LIBRARY = Path(__file__).resolve().parent.parent / "libfastpref_cuda.so"
"""Where ``setup.py`` puts the library."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class CudaBackend(CudaRows):
    """The CUDA kernels as a backend."""

    name = "cuda"

    def __init__(self) -> None:
        native = load_native()
        path = os.environ.get("FASTPREF_CUDA_LIBRARY") or LIBRARY
        about = native.cuda_load(str(path))
        self._emulated: bool = about["emulated"]
        super().__init__(native, self._emulated)
        self._architectures: str = about["architectures"]
        self.head = CudaHead(native, self._where, self._emulated)

    def describe(self) -> str:
        """See the protocol."""
        return "emulated on the CPU" if self._emulated else f"compiled for {self._architectures}"

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """float32, bfloat16 and float16 on CUDA devices; the CPU only with the emulator's library."""
        if device.type != ("cpu" if self._emulated else "cuda"):
            return f"the CUDA kernels run on NVIDIA GPUs, found device {device.type!r}"
        if dtype not in DTYPES:
            return f"the CUDA kernels take float32, bfloat16 and float16 logits, found {dtype}"
        return None
