"""``fastpref._C``, the native module: loaded once, or the reason why not. Used by the ``cpu`` and ``cuda`` backends."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401 - before fastpref._C, so that both use the OpenMP runtime that torch brings
from torch import Tensor

ABI_VERSION = 5
"""Version of the functions of ``fastpref._C`` that this file was written for."""

BUILD_RECORD = Path(__file__).resolve().parent.parent / "_build_info.json"
"""Where ``setup.py`` says what it built, or why not."""

REBUILD = "rebuild: pip install -e . (or reinstall fastpref)"


def why_not_built(part: str | None = None) -> str:
    """What the record says about ``fastpref._C``, or about a part of it such as ``"cuda"``."""
    try:
        record = json.loads(BUILD_RECORD.read_text())
        reason = (record[part] if part else record)["reason"]
    except (OSError, ValueError, KeyError):
        reason = None
    return reason or "nothing is recorded about its build"


def load_native() -> ModuleType:
    """``fastpref._C``, checked to fit this file and set to ``FASTPREF_CPU_ISA``; ``ImportError`` with the reason otherwise."""
    try:
        native = importlib.import_module("fastpref._C")
    except ModuleNotFoundError:
        raise ImportError(f"fastpref._C is not built ({why_not_built()}); {REBUILD}") from None
    except ImportError as error:
        raise ImportError(f"fastpref._C cannot be loaded ({error}); {REBUILD}") from error
    if (found := getattr(native, "ABI_VERSION", None)) != ABI_VERSION:
        raise ImportError(f"fastpref._C has ABI version {found}, expected {ABI_VERSION}; {REBUILD}")
    if isa := os.environ.get("FASTPREF_CPU_ISA"):
        try:
            native.set_isa(isa)
        except ValueError as error:
            raise ImportError(f"FASTPREF_CPU_ISA={isa!r}: {error}") from None
    return native


def address(values: Tensor | None) -> int:
    """Of its first element; 0 for ``None``."""
    return 0 if values is None else values.data_ptr()
