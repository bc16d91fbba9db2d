"""The whole of a loss from given logits in three launches: statistics of policy and reference, the objective, the gradient.

What :class:`~fastpref.backends.triton.TritonBackend` has beside the row primitives. It knows no loss: a head is a name and numbers. Nothing here
waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .base import LogitTransform
from .stage import Staged

if TYPE_CHECKING:
    from fastpref.kernels.head import Head


class TritonStage:
    """The heads that there are, and their launches.

    Args:
        options: the kernels' form of a transform.
    """

    makes_rewards = False
    refuses_rows = False

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
        reward_scale: float | None,
    ) -> Staged:
        """See the protocol: two launches. ``reward_scale`` is ``None``."""
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
        nothing = (found.sums.new_empty(0) for _ in range(2))
        return Staged(*found, *nothing)

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
        """See the protocol: one launch."""
        self._row_grad(logits, targets, lse, coef, coef, out, gain=upstream, **self._options(transform))
