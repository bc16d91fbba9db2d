"""``fastpref._C``, the native module: loaded once, or the reason why not. Used by the ``cpu`` and ``cuda`` backends."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401 - before fastpref._C, so that both use the OpenMP runtime that torch brings
from torch import Tensor

ABI_VERSION = 4
"""Version of the functions of ``fastpref._C`` that this file was written for."""

BUILD_RECORD = Path(__file__).resolve().parent.parent / "_build_info.json"
"""Where ``setup.py`` says why there is no native module."""

_REBUILD = "rebuild: pip install -e . (or reinstall fastpref)"


def _why_not_built() -> str:
    try:
        reason = json.loads(BUILD_RECORD.read_text())["reason"]
    except (OSError, ValueError, KeyError):
        reason = None
    return reason or "nothing is recorded about its build"


def load_native() -> ModuleType:
    """``fastpref._C``, checked to fit this file and set to ``FASTPREF_CPU_ISA``; ``ImportError`` with the reason otherwise."""
    try:
        native = importlib.import_module("fastpref._C")
    except ModuleNotFoundError:
        raise ImportError(f"fastpref._C is not built ({_why_not_built()}); {_REBUILD}") from None
    except ImportError as error:
        raise ImportError(f"fastpref._C cannot be loaded ({error}); {_REBUILD}") from error
    if (found := getattr(native, "ABI_VERSION", None)) != ABI_VERSION:
        raise ImportError(f"fastpref._C has ABI version {found}, expected {ABI_VERSION}; {_REBUILD}")
    if isa := os.environ.get("FASTPREF_CPU_ISA"):
        try:
            native.set_isa(isa)
        except ValueError as error:
            raise ImportError(f"FASTPREF_CPU_ISA={isa!r}: {error}") from None
    return native


def address(values: Tensor | None) -> int:
    """Of its first element; 0 for ``None``."""
    return 0 if values is None else values.data_ptr()
