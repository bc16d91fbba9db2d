"""CUDA kernels without a GPU: ``csrc/cuda`` compiled for the host by the emulator of this folder (see ``emulator.h``).

::

    backend = emulation.cuda.require_emulated()       # the backend "cuda" of this process, on CPU tensors; or skips with the reason
    emulation.cuda.control().watching(...)            # what its launches did (see control.py)
"""

from __future__ import annotations

import functools
import os

import pytest

from fastpref import backends
from fastpref.backends import Backend

from .building import compiler, emulated_library
from .control import Control

__all__ = ["Control", "control", "require_emulated"]


def require_emulated() -> Backend:
    """The backend ``"cuda"``, from then on in the whole process, with kernels that run on the CPU; skips where none can be had."""
    if isinstance(native := backends.load("cpu"), str):
        pytest.skip(native)
    if "FASTPREF_CUDA_LIBRARY" not in os.environ:
        if compiler() is None:
            pytest.skip("no C++ compiler was found for the emulator of CUDA kernels")
        os.environ["FASTPREF_CUDA_LIBRARY"] = str(emulated_library())
        backends._loaded.pop("cuda", None)
    backend = backends.load("cuda")
    if isinstance(backend, str):
        raise RuntimeError(backend)
    if not getattr(backend, "_emulated", False):
        pytest.skip("FASTPREF_CUDA_LIBRARY names kernels for GPUs")
    return backend


@functools.cache
def control() -> Control:
    """Of the library that :func:`require_emulated` loaded."""
    require_emulated()
    return Control(os.environ["FASTPREF_CUDA_LIBRARY"])
