"""A whole loss from given logits as one differentiable function, on a backend that has the stage for it.

:func:`staging` says whether a call can be run so: the objective has a head, and the call gave nothing that the head does not know. Nothing
here waits for the device, and where the call has neither data nor weights nothing runs on it but the stage's two or three launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import backends
from ._checks import NO_SECOND_DERIVATIVES, row_contiguous
from .backends.base import LogitTransform
from .call import Call
from .objectives.base import Objective, TokenObjective
from .objectives.batch import CALL_NUMBERS
from .objectives.device import identify
from .packing import segment_sum, wide_dtype

if TYPE_CHECKING:
    from .backends.stage import Stage, Staged

_ABSENT = {"old_logps", "baseline"}
"""Data that a head can do without: 0 in their place, or the policy's own log-probs, are the same loss."""

_PER_SEQUENCE = {"advantages", "win_probs"}
"""Data of a token head that may be given per sequence."""


@dataclass(frozen=True)
class Staging:
    """How a call is run by the stage.

    Attributes:
        head: its name.
        hyper: its numbers.
        data: names of its data.
        kind: what an item is.
        number: name of the call's number that it reads, or ``None``.
        reward_scale: of the log-ratio in the rewards of pairs.
    """

    head: str
    hyper: tuple[float, ...]
    data: tuple[str, ...]
    kind: str
    number: str | None
    reward_scale: float


def stage_of(backend: str | None, device: torch.device, dtype: torch.dtype) -> Stage | None:
    """The stage of the backend that takes these logits, if it has one."""
    return getattr(backends.select(backend, device, dtype, given_logits=True), "stage", None)


def staging(objective: Objective, stage: Stage, given: Mapping[str, Tensor], weighted: bool) -> Staging | None:
    """How the stage runs a call, or ``None``.

    Args:
        objective: what was asked for.
        stage: of the backend.
        given: the call's data by name.
        weighted: whether the call has token weights of its own.
    """
    name = identify(objective, stage.names)
    if name is None or objective.traits.stateful:
        return None
    head = stage.heads[name]
    if any(data not in given and data not in _ABSENT for data in head.data):
        return None
    known = [given[data] for data in head.data if data in given]
    if not all(isinstance(value, Tensor) for value in known):  # refused with its name where the formula is composed
        return None
    if any(value.requires_grad for value in known):  # a head has no derivative for them
        return None
    if head.kind != "token" and "num_items_in_batch" in given:
        return None
    # With weights the likelihood of a sequence is not the sum that enters its log-ratio.
    if head.number == "mean_chosen_length" and (weighted or objective.weights_tokens):
        return None
    hyper = tuple(float(getattr(objective, option)) for option in head.hyper)
    return Staging(name, hyper, head.data, head.kind, head.number, float(getattr(objective, "reward_scale", 1.0)))


def staged_data(plan: Staging, call: Call) -> list[Tensor | None] | None:
    """The head's data in its order, or ``None`` where their shapes are not what it takes."""
    sequences, tokens = call.cu_seqlens.shape[0] - 1, call.active.shape[0]
    found: list[Tensor | None] = []
    for name in plan.data:
        value = call.data.get(name)
        if value is None:
            found.append(None)
            continue
        if name == "old_logps" and plan.kind != "token" and value.shape[0] != sequences:
            value = segment_sum(value, call.cu_seqlens)
        elif name == "sft_logps":  # of a pair
            value = torch.cat([value, value])
        elif plan.kind == "token" and value.shape[0] != tokens and name not in _PER_SEQUENCE:
            return None
        if plan.kind != "token" and value.shape[0] != sequences:
            return None
        found.append(value.contiguous())
    return found


# --- the function -------------------------------------------------------------------------------------------------------------


class _Given(NamedTuple):
    """The tensors of a call."""

    ref_logits: Tensor | None
    ref_logps: Tensor | None
    targets: Tensor
    cu_seqlens: Tensor
    weights: Tensor | None
    number: Tensor | None
    divisors: Tensor | None
    inv_temperature: Tensor | None
    data: tuple[Tensor | None, ...]


class _Options(NamedTuple):
    """Its plain values."""

    head: str
    hyper: tuple[float, ...]
    reward_scale: float | None
    ignore_index: int
    logit_scale: float
    softcap: float | None
    temperature: float
    inplace_backward: bool


def _transform(inv_temperature: Tensor | None, options: _Options) -> LogitTransform:
    return LogitTransform(options.logit_scale, options.softcap, options.temperature, inv_temperature)


class _LogitsLoss(torch.autograd.Function):
    """Both passes. No operator of the dispatcher, which takes about as long as all else that a call does on the host; what is traced never gets here."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, stage: Stage, given: _Given, options: _Options) -> Staged:
        output = stage.forward(
            options.head,
            options.hyper,
            row_contiguous(logits),
            None if given.ref_logits is None else row_contiguous(given.ref_logits),
            given.targets,
            given.cu_seqlens,
            ignore_index=options.ignore_index,
            transform=_transform(given.inv_temperature, options),
            data=given.data,
            ref_logps=given.ref_logps,
            weights=given.weights,
            number=given.number,
            divisors=given.divisors,
            reward_scale=options.reward_scale,
        )
        ctx.set_materialize_grads(False)  # autograd would fill zeros for every other output
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(logits, given.targets, given.inv_temperature, output.lse, output.coef)
        ctx.stage, ctx.options = stage, options
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None, None]:
        if upstream is None:
            return None, None, None, None
        if torch.is_grad_enabled():
            raise NotImplementedError(NO_SECOND_DERIVATIVES)
        logits, targets, inv_temperature, lse, coef = ctx.saved_tensors
        transform = _transform(inv_temperature, ctx.options)
        # In place unless the rows overlap or are strided.
        if ctx.options.inplace_backward and row_contiguous(logits) is logits:
            grad = logits.detach()
            ctx.stage.backward(grad, targets, lse, coef, upstream, grad, transform)
            # A graph kept for a second backward then fails its version check, loudly.
            torch.autograd.graph.increment_version(logits)
        else:
            logits = row_contiguous(logits)
            grad = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
            ctx.stage.backward(logits, targets, lse, coef, upstream, grad, transform)
        return grad, None, None, None


@dataclass(frozen=True)
class StagedLoss:
    """What the stage found: ``loss`` is differentiable; shapes as in :class:`fastpref.backends.stage.Staged`."""

    loss: Tensor
    losses: Tensor
    sums: Tensor
    logps: Tensor
    ref_logps: Tensor
    rewards: Tensor
    margins: Tensor


def run_staged(
    plan: Staging,
    stage: Stage,
    logits: Tensor,
    ref_logits: Tensor | None,
    ref_logps: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    transform: LogitTransform,
    *,
    call: Call | None,
    data: list[Tensor | None],
    ignore_index: int,
    inplace_backward: bool,
) -> StagedLoss:
    """Run a call; ``call`` is needed where it has data, weights, a number or divisors."""
    number, divisors, weights = None, None, None
    if call is not None:
        batch, weights = call.without_logps(), call.token_weights
        if plan.number is not None:
            number = CALL_NUMBERS[plan.number](batch).to(wide_dtype(logits.device)).reshape(1)
        if isinstance(call.objective, TokenObjective):
            divisors = call.objective.divisors(batch).contiguous()
    pairs = plan.kind == "pair"
    given = _Given(
        ref_logits,
        None if ref_logps is None else ref_logps.contiguous(),
        targets.contiguous(),
        (cu_seqlens if cu_seqlens.device == logits.device else cu_seqlens.to(logits.device)).contiguous(),
        weights,
        number,
        divisors,
        transform.inv_temperature,
        tuple(data),
    )
    options = _Options(
        plan.head,
        plan.hyper,
        plan.reward_scale if pairs and stage.makes_rewards else None,
        ignore_index,
        transform.logit_scale,
        transform.softcap,
        transform.temperature,
        inplace_backward,
    )
    loss, losses, sums, _, logps, near, _, rewards, margins = _LogitsLoss.apply(logits, stage, given, options)
    return StagedLoss(loss, losses, sums, logps, near, rewards, margins)


class LateMetrics(Mapping[str, Tensor]):
    """Metrics that are computed when one of them is first looked at: what nobody logs costs no launch."""

    def __init__(self, compute: Callable[[], Mapping[str, Tensor]]) -> None:
        self._compute = compute
        self._found: dict[str, Tensor] | None = None

    def _values(self) -> dict[str, Tensor]:
        if self._found is None:
            self._found = dict(self._compute())
        return self._found

    def __getitem__(self, name: str) -> Tensor:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        return repr(self._values())

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle has the numbers, not the way to them."""
        return dict, (self._values(),)
