"""What a backend is: the loss-agnostic row primitives that every plan is composed from.

A *row* is the logits of one token, or a vocabulary chunk ``[col0, col0 + C)`` of them. Two primitives are enough for
stages 1 and 3 of the package, whether the logits were given or are being made chunk by chunk from a linear head:

``row_stats``
    folds a chunk into the running statistics of its rows: a reference value ``m``, ``s = sum exp(z - m)``, the target's ``z``, and
    what else was asked for (:data:`STATISTICS`), all from one read of the logits.
``row_grad``
    turns a chunk of logits into its gradient, in place or out of place.

Two more see the same chunk of a policy's and of a reference's logits at once, for the divergence of one from the other:

``row_kl_stats``
    folds both into their statistics and into the part of the divergence that needs both.
``row_kl_grad``
    turns the policy's chunk into its gradient, in place or out of place.

All see the *transformed* logit ``z`` of :class:`LogitTransform`; the gradient is with respect to the raw logit. A backend
imports no objective and knows no loss: the two or three coefficients per row of a gradient are all that a loss can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

IGNORED = -1
"""The target id that marks an ignored row inside the package; the public edge maps its ``ignore_index`` to it."""

STATISTICS = ("entropy", "log_sum_sq_probs", "argmax", "mean_logit")
"""The statistics of a row that can be asked for beside its log-probability; :class:`RowStatistics` defines them."""

Direction = Literal["forward", "reverse"]
"""``"forward"``: KL(reference || policy). ``"reverse"``: KL(policy || reference)."""


@dataclass(frozen=True)
class LogitTransform:
    """``z = softcap * tanh(logit_scale * x / softcap) / temperature`` (without a softcap: ``logit_scale * x / temperature``).

    The order is that of Gemma (softcap) and Cohere (logit scale) in transformers, with the sampling temperature last.

    ``inv_temperature [R]``, contiguous, positive and in the accumulation dtype, is one more factor ``1 / temperature`` for each of the R rows
    that a primitive is called on; what it holds on ignored rows does not matter. ``None``: no row has a temperature of its own.
    """

    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    inv_temperature: Tensor | None = None

    @property
    def scale(self) -> float:
        """The one factor left when there is no softcap and no temperature per row."""
        return self.logit_scale / self.temperature

    def rows(self, chosen: slice | Tensor | None) -> LogitTransform:
        """The transform of some of the rows: a block, indices, or ``None`` for all of them."""
        if self.inv_temperature is None or chosen is None:
            return self
        return replace(self, inv_temperature=self.inv_temperature[chosen])


@dataclass(frozen=True)
class RowStatistics:
    """What is known of R rows after their last column; every field is ``[R]``, 0 on ignored rows, ``None`` where it was not asked for.

    Attributes:
        logps: ``log softmax(z)[target]``.
        lse: ``logsumexp(z)``.
        entropy: ``-sum_v p_v log p_v``, in nats.
        log_sum_sq_probs: ``log sum_v p_v^2``.
        argmax: int64, the column of the largest logit, the lowest among equals. Logits are compared as they are stored: ``z`` is
            strictly monotone in them, so this is its maximum, and rounding (a saturated softcap, say) makes no ties.
        mean_logit: ``mean_v z_v``.

    A row whose log-probability is undefined (it holds NaN, say) has NaN in every floating field.
    """

    logps: Tensor
    lse: Tensor
    entropy: Tensor | None = None
    log_sum_sq_probs: Tensor | None = None
    argmax: Tensor | None = None
    mean_logit: Tensor | None = None


@dataclass
class RowState:
    """Running statistics of R rows, folded over vocabulary chunks.

    Every field is ``[R]``, contiguous, float32 (float64 where the logits are). ``m`` is a finite reference near the maximum seen so
    far (``-inf`` before the first finite logit; it need not be the maximum itself), ``s`` is ``sum exp(z - m)``, ``zt`` the target's ``z``
    (NaN until its column was seen, so that a target outside the vocabulary gives NaN and never a wild read).

    The other fields are ``None`` unless their statistic was asked for: ``s2 = sum exp(2 (z - m))`` for ``log_sum_sq_probs``;
    ``sd = sum exp(z - m) (z - m)``, where ``-inf`` contributes 0, for ``entropy``; ``total = sum z`` for ``mean_logit``; ``top``, the
    largest raw logit (negated under a transform that falls with it) and ``argmax`` (int64), its column, for ``argmax``.
    """

    m: Tensor
    s: Tensor
    zt: Tensor
    s2: Tensor | None = None
    sd: Tensor | None = None
    total: Tensor | None = None
    top: Tensor | None = None
    argmax: Tensor | None = None

    @classmethod
    def start(cls, rows: int, device: torch.device, dtype: torch.dtype, stats: Sequence[str] = ()) -> RowState:
        """The state before any column was seen; ``dtype`` is the accumulation dtype, ``stats`` are some of :data:`STATISTICS`."""

        def full(value: float, asked: str) -> Tensor | None:
            return torch.full((rows,), value, device=device, dtype=dtype) if asked in stats else None

        return cls(
            torch.full((rows,), -torch.inf, device=device, dtype=dtype),
            torch.zeros(rows, device=device, dtype=dtype),
            torch.full((rows,), torch.nan, device=device, dtype=dtype),
            s2=full(0.0, "log_sum_sq_probs"),
            sd=full(0.0, "entropy"),
            total=full(0.0, "mean_logit"),
            top=full(-torch.inf, "argmax"),
            argmax=torch.zeros(rows, device=device, dtype=torch.int64) if "argmax" in stats else None,
        )

    def rows(self, block: slice) -> RowState:
        """A view of some of the rows."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        values: dict[str, Any] = {name: None if value is None else value[block] for name, value in given}
        return RowState(**values)

    def finish(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``(logps, lse)``, both ``[R]``; 0 on ignored rows.

        ``logps`` is formed as ``(zt - m) - log s``, which keeps the digits of a log-probability near 0 that ``zt - lse`` loses.
        """
        log_s = self.s.log()
        ignored = targets < 0
        logps = ((self.zt - self.m) - log_s).masked_fill_(ignored, 0.0)
        lse = (self.m + log_s).masked_fill_(ignored, 0.0)
        return logps, lse

    def statistics(self, targets: Tensor, vocab: int) -> RowStatistics:
        """Everything that was asked for, after all ``vocab`` columns. No difference of large numbers is taken: the sums are relative to ``m``."""
        logps, lse = self.finish(targets)
        log_s, ignored = self.s.log(), targets < 0

        def finished(value: Tensor) -> Tensor:
            return torch.where(self.s.isnan(), self.s, value).masked_fill_(ignored, 0.0)

        return RowStatistics(
            logps,
            lse,
            entropy=None if self.sd is None else finished((log_s - self.sd / self.s).clamp_min_(0.0)),
            log_sum_sq_probs=None if self.s2 is None else finished(self.s2.log() - 2.0 * log_s),
            argmax=None if self.argmax is None else self.argmax.masked_fill(ignored, 0),
            mean_logit=None if self.total is None else finished(self.total / vocab),
        )


@dataclass
class KlState:
    """Running statistics of R rows of a policy and a reference, and what their divergence needs of both.

    ``cross [R]`` is ``sum_v exp(a_v - m_a) ((a_v - m_a) - (b_v - m_b))``, where ``a`` is the ``z`` of the distribution that measures (the
    reference's in the forward direction, the policy's in the reverse) and ``b`` that of the other one, each relative to its own
    reference value. An entry with ``a_v = -inf`` contributes 0; one with ``b_v = -inf`` and ``a_v > -inf`` makes it ``+inf``. Both
    divergences then are ``cross / s_a + log(s_b / s_a)``: the size of the logits is in no term, so none of it has to cancel.
    """

    policy: RowState
    reference: RowState
    cross: Tensor

    @classmethod
    def start(cls, rows: int, device: torch.device, dtype: torch.dtype) -> KlState:
        """The state before any column was seen; ``dtype`` is the accumulation dtype."""
        policy, reference = (RowState.start(rows, device, dtype) for _ in range(2))
        return cls(policy, reference, torch.zeros_like(policy.s))

    def rows(self, block: slice) -> KlState:
        """A view of some of the rows."""
        return KlState(self.policy.rows(block), self.reference.rows(block), self.cross[block])

    def pair(self, direction: Direction) -> tuple[RowState, RowState]:
        """``(a, b)``: the distribution that measures, and the other one."""
        return (self.reference, self.policy) if direction == "forward" else (self.policy, self.reference)

    def finish(self, targets: Tensor, direction: Direction) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``(logps, lse, ref_logps, ref_lse, kl)``, each ``[R]``; 0 on ignored rows. Rounding does not take ``kl`` below 0."""
        a, b = self.pair(direction)
        kl = (self.cross / a.s + (b.s / a.s).log()).clamp_min_(0.0).masked_fill_(targets < 0, 0.0)
        return *self.policy.finish(targets), *self.reference.finish(targets), kl


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 logits (the oracle), float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Backend(Protocol):
    """The contract. A backend may have a ``head`` beside it (:class:`fastpref.backends.head_engine.HeadEngine`) that runs a linear head over the
    whole vocabulary in one call; without one, or where it does not take the operands, the row primitives run on chunks of logits. It may
    have a ``stage`` (:class:`fastpref.backends.triton_stage.TritonStage`) that runs the whole of a loss from given logits.

    Callers guarantee validated input; a backend checks nothing that costs a synchronisation.

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
        """Fold the chunk into ``state`` in place, the optional fields where they are there. Rows whose target is negative are left as
        they are."""
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

    def row_kl_stats(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        state: KlState,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """Fold a policy's chunk and a reference's, both ``[R, C]`` of one dtype, into ``state`` in place.

        ``state.policy`` and ``state.reference`` take the same bits where both hold the same numbers, and those of two calls of ``row_stats`` where
        their rows lie at like addresses (modulo 16 bytes). Rows whose target is negative are
        left as they are.
        """
        ...

    def row_kl_grad(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        ref_lse: Tensor,
        kl: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        kl_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """``row_grad`` with a third term: ``out[r, j] = (onehot_coef * 1[col0 + j == target] - softmax_coef * p + kl_coef * d) * dz/dx``.

        ``p = exp(z - lse)``, ``q = exp(ref_z - ref_lse)``; ``d = p - q`` in the forward direction and ``p (log p - log q - kl)`` in the
        reverse, 0 where ``p`` is 0. Where both rows hold the same numbers ``d`` is exactly 0. A row whose ``kl_coef`` is 0 has no third
        term, whatever its ``kl`` is. ``kl [R]`` is read in the reverse direction only. ``out`` may be ``logits``, never ``ref_logits``;
        rows that are ignored or whose three coefficients are all 0 are written as exact zeros without reading the logits.
        """
        ...
