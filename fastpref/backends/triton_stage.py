"""The whole of a loss from given logits in three launches: statistics of policy and reference, the objective, the gradient.

What :class:`~fastpref.backends.triton.TritonBackend` has beside the row primitives. It knows no loss: a head is a name and numbers. Nothing here
waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from .base import LogitTransform

if TYPE_CHECKING:
    from fastpref.kernels.head import Head


class Staged(NamedTuple):
    """What the first two launches leave.

    Attributes:
        loss: ``[]`` float32.
        losses: ``[items]`` float64.
        sums: ``[2, K]`` float64, sequence log-probs of policy and reference.
        lse: ``[T]`` float32, as the other fields; 0 on ignored rows.
        logps: ``[T]`` of the policy.
        ref_logps: ``[T]``, of no elements where the reference has no logits.
        coef: ``[T]`` derivative of the loss with respect to ``logps``.
    """

    loss: Tensor
    losses: Tensor
    sums: Tensor
    lse: Tensor
    logps: Tensor
    ref_logps: Tensor
    coef: Tensor


class TritonStage:
    """The heads that there are, and their launches.

    Args:
        options: the kernels' form of a transform.
    """

    def __init__(self, options: Callable[[LogitTransform], dict[str, Any]]) -> None:
        from fastpref.kernels import objective_heads, objective_stage, row_grad, row_stats, tiling

        self._options = options
        self.heads: Mapping[str, Head] = objective_heads.HEADS
        self.names: Mapping[str, str] = objective_heads.NAMES
        self._objective = objective_stage.objective
        self._row_partials = row_stats.row_partials
        self._row_grad = row_grad.row_grad
        self._multiprocessors = tiling.multiprocessors

    def forward(
        self,
        head: str,
        hyper: Sequence[float],
        logits: Tensor,
        reference: Tensor | None,
        targets: Tensor,
        cu_seqlens: Tensor,
        *,
        ignore_index: int,
        transform: LogitTransform,
        data: Sequence[Tensor | None],
        ref_logps: Tensor | None,
        weights: Tensor | None,
        number: Tensor | None,
        divisors: Tensor | None,
    ) -> Staged:
        """Two launches.

        Args:
            head: a key of ``heads``.
            hyper: the numbers that it names.
            logits: ``[T, V]``, contiguous rows.
            reference: the same of the reference, or ``None``.
            targets: ``[T]`` int64 as the caller has them; one outside the vocabulary that is not ``ignore_index`` gives NaN.
            cu_seqlens: ``[K+1]`` int32.
            ignore_index: the target of rows that are not read.
            transform: of policy and reference.
            data: the tensors that the head names; ``None`` where the call has none.
            ref_logps: a precomputed reference, ``[T]`` or ``[K]``, or ``None``.
            weights: ``[T]``, or ``None``.
            number: what the head's number of the call is, one element, or ``None``.
            divisors: ``[K]``, for a head of tokens.
        """
        count = self._multiprocessors(logits.device)
        partials = self._row_partials(
            logits, reference, targets, ignore_index=ignore_index, multiprocessors=count, **self._options(transform)
        )
        found = self._objective(
            self.heads[head],
            tuple(hyper),
            partials,
            targets,
            cu_seqlens,
            ignore_index=ignore_index,
            data=tuple(data),
            reference=ref_logps,
            weights=weights,
            number=number,
            divisors=divisors,
        )
        return Staged(*found)

    def backward(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        coef: Tensor,
        upstream: Tensor,
        out: Tensor,
        transform: LogitTransform,
    ) -> None:
        """One launch: ``out [T, V] = upstream * d loss / d logits``; ``out`` may be ``logits``. Ignored rows have the coefficient 0."""
        self._row_grad(logits, targets, lse, coef, coef, out, gain=upstream, **self._options(transform))
