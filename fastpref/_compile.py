"""What ``torch.compile(fullgraph=True)`` of this package needs, without importing the compiler (seconds) for those who do not compile.

It calls a function that is marked :func:`constant` while it traces and takes the result as a constant, as it does for
:func:`torch.compiler.assume_constant_result`. Right for functions of Python values and no tensors that give the same for the same arguments
as long as the process lives. A plan is one of them, so a compiled loss is compiled again for another number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def compiling() -> bool:
    """Whether ``torch.compile`` is tracing."""
    return torch.compiler.is_compiling()


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Mark the function, and return it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class computed_once(Generic[T]):
    """``functools.cached_property`` without its lock (up to Python 3.11), which cannot be traced; the instance may be frozen."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = self.function(instance)
        object.__setattr__(instance, self.function.__name__, value)  # from now on it is found before this descriptor
        return value
