"""fastpref: fused kernels for preference losses. The public names and nothing else; importing them imports torch lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "logprobs": "token_logprobs",
    "linear_logprobs": "token_logprobs",
    "TokenLogProbs": "token_logprobs",
    "preference_loss": "preference",
    "linear_preference_loss": "preference",
    "logits_preference_loss": "logits_loss",
    "PreferenceOutput": "preference",
    "linear_token_kl": "divergence",
    "token_kl": "divergence",
    "TokenKL": "divergence",
    "objective": "objectives",
    "UserError": "errors",
}
"""Public name -> module that defines it. Lazy, so that the command line can set OpenMP's environment before torch is imported."""

_SUBMODULES = ("advantages", "lab", "nn", "objectives", "packing", "planner", "train")
"""Modules that are part of the documented surface, imported when they are first named."""

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from .divergence import TokenKL as TokenKL
    from .divergence import linear_token_kl as linear_token_kl
    from .divergence import token_kl as token_kl
    from .errors import UserError as UserError
    from .logits_loss import logits_preference_loss as logits_preference_loss
    from .objectives import objective as objective
    from .preference import PreferenceOutput as PreferenceOutput
    from .preference import linear_preference_loss as linear_preference_loss
    from .preference import preference_loss as preference_loss
    from .token_logprobs import TokenLogProbs as TokenLogProbs
    from .token_logprobs import linear_logprobs as linear_logprobs
    from .token_logprobs import logprobs as logprobs


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastpref' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
