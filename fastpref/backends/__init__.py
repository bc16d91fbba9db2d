"""Selection of a backend: ``auto`` by device, ``FASTPREF_BACKEND`` and ``backend=`` override it.

``auto`` takes cpu on a CPU. On a GPU it takes cuda for given logits: one launch less than triton's and nothing to compile when it is first called. For a
linear head it takes triton, whose products use the widest tensor-core instructions of each GPU, where cuda's use those that all of them
have. Where the preferred one cannot run (not built, not installed, a dtype it does not have) the other does, and eager where
neither can. A backend that was named is used or refused with its reason, never replaced.
"""

from __future__ import annotations

import importlib
import os

import torch

from .._compile import constant
from .base import IGNORED, Backend, LogitTransform, RowState, accumulation_dtype

__all__ = [
    "BACKENDS",
    "IGNORED",
    "Backend",
    "LogitTransform",
    "RowState",
    "accumulation_dtype",
    "available",
    "load",
    "select",
]

BACKENDS: dict[str, str] = {
    "eager": "EagerBackend",
    "cpu": "CpuBackend",
    "triton": "TritonBackend",
    "cuda": "CudaBackend",
}
"""Name of each backend (its module here) and its class."""


_loaded: dict[str, Backend | str] = {}
"""Every backend that was asked for, or the reason why it cannot be loaded."""


@constant  # imports and native code: torch.compile finds the backend in the dictionary afterwards
def _load(name: str) -> None:
    if name in _loaded:
        return
    try:
        module = importlib.import_module(f".{name}", __name__)
        _loaded[name] = getattr(module, BACKENDS[name])()
    except (ImportError, OSError, RuntimeError) as error:
        _loaded[name] = str(error)


def load(name: str) -> Backend | str:
    """The backend of that name, or the reason why it cannot be loaded in this process."""
    _load(name)
    return _loaded[name]


def available() -> dict[str, str | None]:
    """Every backend's name, with ``None`` if it loads here or the reason why not."""
    loaded = {name: load(name) for name in BACKENDS}
    return {name: b if isinstance(b, str) else None for name, b in loaded.items()}


def _preferred(device: torch.device, given_logits: bool) -> tuple[str, ...]:
    if device.type == "cpu":
        return ("cpu",)
    return ("cuda", "triton") if given_logits else ("triton", "cuda")


def select(requested: str | None, device: torch.device, dtype: torch.dtype, *, given_logits: bool = False) -> Backend:
    """The backend for logits of this device and dtype.

    ``requested`` is the caller's ``backend=`` (``None`` or ``"auto"``: the environment's ``FASTPREF_BACKEND``, else by device). ``given_logits``:
    they are the caller's, and not made chunk by chunk from a linear head.
    Raises ``ValueError`` where a named backend is unknown or cannot run these logits.
    """
    source = "backend"
    if requested is None or requested == "auto":
        requested, source = os.environ.get("FASTPREF_BACKEND", "auto") or "auto", "FASTPREF_BACKEND"
    if requested == "auto":
        names = (*_preferred(device, given_logits), "eager")
        for name in names:  # all of them before one is looked at: torch.compile looks at the dictionary once
            _load(name)
        able = (b for b in map(load, names) if not isinstance(b, str) and b.why_not(device, dtype) is None)
        backend = next(able, load("eager"))
    elif requested in BACKENDS:
        backend = load(requested)
    else:
        raise ValueError(f"{source}={requested!r}: expected one of auto, {', '.join(BACKENDS)}")
    if isinstance(backend, str):
        raise ValueError(f"{source}={requested!r} cannot be used: {backend}")
    if (reason := backend.why_not(device, dtype)) is not None:
        raise ValueError(f"{source}={requested!r} cannot be used: {reason}")
    return backend
