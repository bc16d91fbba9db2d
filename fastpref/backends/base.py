"""What a backend is: the loss-agnostic row primitives that every plan is composed from.

A *row* is the logits of one token, or a vocabulary chunk ``[col0, col0 + C)`` of them. Two primitives are enough for
stages 1 and 3 of the package, whether the logits were given or are being made chunk by chunk from a linear head:

``row_stats``
    folds a chunk into the running statistics of its rows: a reference value ``m``, ``s = sum exp(z - m)`` and the target's ``z``.
``row_grad``
    turns a chunk of logits into its gradient, in place or out of place.

Both see the *transformed* logit ``z`` of :class:`LogitTransform`; the gradient is with respect to the raw logit. A backend
imports no objective and knows no loss: the two coefficients per row of ``row_grad`` are all that a loss can say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

IGNORED = -1
"""The target id that marks an ignored row inside the package; the public edge maps its ``ignore_index`` to it."""


@dataclass(frozen=True)
class LogitTransform:
    """``z = softcap * tanh(logit_scale * x / softcap) / temperature`` (without a softcap: ``logit_scale * x / temperature``).

    The order is that of Gemma (softcap) and Cohere (logit scale) in transformers, with the sampling temperature last.
    """

    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def scale(self) -> float:
        """The one factor left when there is no softcap."""
        return self.logit_scale / self.temperature


@dataclass
class RowState:
    """Running statistics of R rows, folded over vocabulary chunks.

    All three are ``[R]``, contiguous, float32 (float64 where the logits are): ``m`` is a finite reference near the maximum seen so
    far (``-inf`` before the first finite logit; it need not be the maximum itself), ``s`` is ``sum exp(z - m)``, ``zt`` the target's ``z``
    (NaN until its column was seen, so that a target outside the vocabulary gives NaN and never a wild read).
    """

    m: Tensor
    s: Tensor
    zt: Tensor

    @classmethod
    def start(cls, rows: int, device: torch.device, dtype: torch.dtype) -> RowState:
        """The state before any column was seen; ``dtype`` is the accumulation dtype."""
        return cls(
            torch.full((rows,), -torch.inf, device=device, dtype=dtype),
            torch.zeros(rows, device=device, dtype=dtype),
            torch.full((rows,), torch.nan, device=device, dtype=dtype),
        )

    def finish(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``(logps, lse)``, both ``[R]``; 0 on ignored rows.

        ``logps`` is formed as ``(zt - m) - log s``, which keeps the digits of a log-probability near 0 that ``zt - lse`` loses.
        """
        log_s = self.s.log()
        ignored = targets < 0
        logps = ((self.zt - self.m) - log_s).masked_fill_(ignored, 0.0)
        lse = (self.m + log_s).masked_fill_(ignored, 0.0)
        return logps, lse


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 logits (the oracle), float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Backend(Protocol):
    """The contract. Callers guarantee validated input; a backend checks nothing that costs a synchronisation.

    Common arguments: ``logits [R, C]`` with a contiguous last dimension and any row stride, covering vocabulary columns
    ``[col0, col0 + C)``; ``targets [R]`` int64 contiguous, in ``[0, V)`` or negative for an ignored row (which is never read).
    Offsets are 64-bit. ``R`` and ``C`` may be anything from 1 (no alignment to a block size is assumed); ``R = 0`` is a no-op.
    """

    name: str

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """``None`` if logits of this device and dtype can be handled, else the reason as a sentence fragment."""
        ...

    def describe(self) -> str:
        """What runs, for ``fastpref doctor``: instruction sets, versions."""
        ...

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """Fold the chunk into ``state`` in place. Rows whose target is negative are left as they are."""
        ...

    def row_grad(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
    ) -> None:
        """``out[r, j] = (onehot_coef[r] * 1[col0 + j == targets[r]] - softmax_coef[r] * exp(z[r, j] - lse[r])) * dz/dx``.

        ``lse``, ``onehot_coef`` and ``softmax_coef`` are ``[R]`` in the accumulation dtype. ``out [R, C]`` has the dtype of
        ``logits``, a contiguous last dimension, any row stride, and may be ``logits`` itself (never a partial overlap). Rows that are ignored, or whose two
        coefficients are both 0, are written as exact zeros without reading the logits, whatever these hold.
        """
        ...
