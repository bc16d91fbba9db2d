"""The small trainer: preference training of causal language models from pairs, that survives being killed.

Importing this package imports neither torch nor transformers; they come with the first name that is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "TrainConfig": "config",
    "TrainResult": "loop",
    "Callback": "loop",
    "train": "run",
    "main": "command",
}
"""Public name -> module that defines it."""

__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    from .command import main as main
    from .config import TrainConfig as TrainConfig
    from .loop import Callback as Callback
    from .loop import TrainResult as TrainResult
    from .run import train as train


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastpref.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
