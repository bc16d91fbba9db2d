"""What runs the whole of a loss from given logits, beside a backend's row primitives: statistics of policy and reference, objective, gradient.

:class:`fastpref.backends.triton_stage.TritonStage` and :class:`fastpref.backends.cuda_stage.CudaStage` are such stages. They know no loss: a head, the
device form of one, is a name and numbers. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from .base import LogitTransform


class StageHead(Protocol):
    """The device form of a loss: what an item is, and names of what it is computed from.

    Attributes:
        kind: what an item is.
        data: names of its data, in order.
        hyper: names of its hyper-parameters, in order.
        number: name of the number of the whole call that it reads, or ``None``.
    """

    @property
    def kind(self) -> Literal["pair", "sequence", "token"]: ...  # noqa: D102
    @property
    def data(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def hyper(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def number(self) -> str | None: ...  # noqa: D102


class Staged(NamedTuple):
    """What the forward pass leaves.

    Attributes:
        loss: ``[]`` float32.
        losses: ``[items]`` float64.
        sums: ``[2, K]`` float64, sequence log-probs of policy and reference.
        lse: ``[T]`` float32, as the three that follow; 0 on ignored rows.
        logps: ``[T]`` of the policy.
        ref_logps: ``[T]``, of no elements where the reference has no logits.
        coef: ``[T]`` derivative of the loss with respect to ``logps``.
        rewards: ``[K]`` float64, of pairs; of no elements where they were not wanted.
        margins: ``[K / 2]`` float64, likewise.
    """

    loss: Tensor
    losses: Tensor
    sums: Tensor
    lse: Tensor
    logps: Tensor
    ref_logps: Tensor
    coef: Tensor
    rewards: Tensor
    margins: Tensor


class Stage(Protocol):
    """The contract.

    Attributes:
        heads: by name.
        names: the name of the head of every variant of an objective.
        makes_rewards: whether rewards and margins of pairs come with the rest, if they are wanted.
        refuses_rows: whether :meth:`forward` raises ``ValueError`` for a target outside the vocabulary, before anything is computed, and for a NaN log-probability.
    """

    makes_rewards: bool
    refuses_rows: bool

    @property
    def heads(self) -> Mapping[str, StageHead]: ...  # noqa: D102
    @property
    def names(self) -> Mapping[str, str]: ...  # noqa: D102

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
        """Everything but the gradient.

        Args:
            head: a key of ``heads``.
            hyper: the numbers that it names.
            logits: ``[T, V]``, contiguous rows.
            reference: the same of the reference, or ``None``.
            targets: ``[T]`` int64 as the caller has them; one outside the vocabulary that is not ``ignore_index`` gives NaN, or is refused.
            cu_seqlens: ``[K+1]`` int32.
            ignore_index: the target of rows that are not read.
            transform: of policy and reference.
            data: the tensors that the head names; ``None`` where the call has none.
            ref_logps: a precomputed reference, ``[T]`` or ``[K]``, or ``None``.
            weights: ``[T]``, or ``None``.
            number: what the head's number of the call is, one element, or ``None``.
            divisors: ``[K]``, for a head of tokens.
            reward_scale: of the log-ratio in the rewards of pairs; ``None``: they are not wanted.
        """
        ...

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
        """``out [T, V] = upstream * d loss / d logits``; ``out`` may be ``logits``. Ignored rows have the coefficient 0."""
        ...
