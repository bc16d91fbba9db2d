"""The CUDA C++ kernels (``csrc/cuda``), compiled ahead of time: nothing is compiled when they are first used.

Contract: see :class:`fastpref.backends.base.Backend`. The kernels are a library of their own with a C interface, which ``fastpref._C`` loads;
neither a GPU nor a driver is needed for that. ``FASTPREF_CUDA_LIBRARY`` names another file, such as the one that the tests' emulator makes of the same
sources, whose "device" is the CPU.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from .._compile import constant
from .cuda_head import CudaHead
from .cuda_rows import CudaRows
from .cuda_stage import CudaStage
from .native import REBUILD, load_native, why_not_built

LIBRARY = Path(__file__).resolve().parent.parent / "libfastpref_cuda.so"
"""Where ``setup.py`` puts the library."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

OLDEST = (8, 0)
"""Compute capability of the oldest GPU that has what the kernels use."""


def covered(capability: tuple[int, int], architectures: str) -> bool:
    """Whether a GPU runs something of ``"sm_80 sm_90 compute_90"``: code of its major number for this or a lower minor one, or PTX that is no newer."""
    for kind, digits, feature in re.findall(r"(sm|compute)_(\d+)([af]?)", architectures):
        major, minor = divmod(int(digits), 10)
        exact = capability == (major, minor)
        later = capability[0] == major and capability[1] >= minor
        if exact or (not feature and (later or (kind == "compute" and capability >= (major, minor)))):
            return True
    return False


_capabilities: dict[int | None, tuple[int, int]] = {}


@constant  # asks the driver
def _capability(device: torch.device) -> tuple[int, int]:
    if device.index not in _capabilities:
        _capabilities[device.index] = torch.cuda.get_device_capability(device)
    return _capabilities[device.index]


class CudaBackend(CudaRows):
    """The CUDA kernels as a backend.

    Attributes:
        head: a linear head over the whole vocabulary in one call.
        stage: the whole of a loss from given logits.
    """

    name = "cuda"

    def __init__(self) -> None:
        native = load_native()
        path = os.environ.get("FASTPREF_CUDA_LIBRARY")
        if not path and not LIBRARY.exists():
            raise ImportError(f"the CUDA kernels are not built ({why_not_built('cuda')}); {REBUILD}")
        try:
            about = native.cuda_load(path or str(LIBRARY))
        except ImportError as error:
            raise ImportError(f"the CUDA kernels cannot be loaded ({error}); {REBUILD}") from None
        self._emulated: bool = about["emulated"]
        super().__init__(native, self._emulated)
        self._architectures: str = about["architectures"]
        self.head = CudaHead(native, self.where, self._emulated)
        self.stage = CudaStage(native, self)

    def describe(self) -> str:
        """See the protocol."""
        return "emulated on the CPU" if self._emulated else f"compiled for {self._architectures}"

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """float32, bfloat16 and float16 on NVIDIA GPUs that the kernels were compiled for; the CPU only with the emulator's library."""
        if device.type != ("cpu" if self._emulated else "cuda"):
            return f"the CUDA kernels run on NVIDIA GPUs, found device {device.type!r}"
        if dtype not in DTYPES:
            return f"the CUDA kernels take float32, bfloat16 and float16 logits, found {dtype}"
        return None if self._emulated else self._why_not_gpu(device)

    def _why_not_gpu(self, device: torch.device) -> str | None:
        if torch.version.hip:
            return "the CUDA kernels run on NVIDIA GPUs, and this torch is built for AMD's (ROCm)"
        if torch.cuda.is_available():  # tensors without storage may name a GPU where there is none
            major, minor = capability = _capability(device)
            if capability < OLDEST:
                return f"the CUDA kernels need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer, found {major}.{minor}"
            if not covered(capability, self._architectures):
                return (
                    f"the CUDA kernels were compiled for {self._architectures}, found a GPU of compute capability {major}.{minor}; "
                    f"set FASTPREF_CUDA_ARCHITECTURES={major}{minor} and {REBUILD}"
                )
        return None
