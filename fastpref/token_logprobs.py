"""Stages 1 and 3 as differentiable functions: token log-probabilities from logits, or from hidden states and a linear head.

The work is registered with ``torch.library`` under ``fastpref::``, with fake kernels and autograd formulas, so that ``opcheck``,
``torch.compile`` and fake tensors know it. Both operators return ``(logps, lse)``; the gradient of either reaches the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import backends
from ._checks import (
    normalise_targets,
    refuse_forward_mode,
    refuse_nan,
    require_floating,
    require_same,
    require_shape,
    require_tensor,
    row_contiguous,
)
from .backends.base import LogitTransform, RowState, accumulation_dtype
from .errors import require_positive
from .linear_head import Head, Needs, Tiling, WeightGradient, gradients, statistics
from .planner import HeadProblem, plan_recompute


@dataclass(frozen=True)
class TokenLogProbs:
    """Token log-probabilities of T rows.

    Attributes:
        logps: ``[T]`` ``log softmax(z)[target]``; 0 on ignored rows.
        lse: ``[T]`` ``logsumexp(z)``; 0 on ignored rows.

    Both are float32 (float64 for float64 input), natural logarithms, and differentiable.
    """

    logps: Tensor
    lse: Tensor


def make_transform(temperature: float, softcap: float | None, logit_scale: float) -> LogitTransform:
    """The validated logit transform of the public arguments."""
    require_positive("temperature", temperature)
    require_positive("logit_scale", logit_scale)
    if softcap is not None:
        require_positive("softcap", softcap)
    return LogitTransform(logit_scale, softcap, temperature)


# --- logits given -------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("fastpref::logprobs", mutates_args=())
def _logprobs(
    logits: Tensor,
    targets: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    inplace_backward: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = backends.select(backend, logits.device, logits.dtype)
    state = RowState.start(logits.shape[0], logits.device, accumulation_dtype(logits.dtype))
    transform = LogitTransform(logit_scale, softcap, temperature)
    chosen.row_stats(row_contiguous(logits), targets, state, col0=0, transform=transform)
    return state.finish(targets)


@_logprobs.register_fake
def _(logits: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = logits.new_empty(logits.shape[0], dtype=accumulation_dtype(logits.dtype))
    return rows, torch.empty_like(rows)


@torch.library.custom_op("fastpref::logprobs_backward", mutates_args=())
def _logprobs_backward(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    backend: str,
) -> Tensor:
    logits = row_contiguous(logits)
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    transform = LogitTransform(logit_scale, softcap, temperature)
    chosen = backends.select(backend, logits.device, logits.dtype)
    chosen.row_grad(logits, targets, lse, onehot_coef, softmax_coef, out, col0=0, transform=transform)
    return out


@_logprobs_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _coefficients(grad_logps: Tensor, grad_lse: Tensor) -> tuple[Tensor, Tensor]:
    """``dL/dz = g_logps * (onehot - p) + g_lse * p``, as the two coefficients of ``row_grad``."""
    return grad_logps.contiguous(), (grad_logps - grad_lse).contiguous()


def _logprobs_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, ctx.logit_scale, ctx.softcap, ctx.temperature, ctx.inplace, ctx.backend = inputs
    ctx.save_for_backward(logits, targets, output[1])


def _logprobs_grad(ctx: Any, grad_logps: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    logits, targets, lse = ctx.saved_tensors
    a, b = _coefficients(grad_logps, grad_lse)
    if ctx.inplace and row_contiguous(logits) is logits:  # else the rows overlap or are strided: out of place
        transform = LogitTransform(ctx.logit_scale, ctx.softcap, ctx.temperature)
        chosen = backends.select(ctx.backend, logits.device, logits.dtype)
        grad = logits.detach()
        chosen.row_grad(grad, targets, lse, a, b, grad, col0=0, transform=transform)
        # A graph kept for a second backward then fails its version check, loudly.
        torch.autograd.graph.increment_version(logits)
    else:
        grad = _logprobs_backward(
            logits, targets, lse, a, b, ctx.logit_scale, ctx.softcap, ctx.temperature, ctx.backend
        )
    return grad, None, None, None, None, None, None


_logprobs.register_autograd(_logprobs_grad, setup_context=_logprobs_setup)


def logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    inplace_backward: bool = False,
    backend: str | None = None,
) -> TokenLogProbs:
    """``log softmax(z)[target]`` of every row, reading each logit once, without a copy of the logits.

    ``z = logit_scale * logits / temperature``, with a softcap ``z = softcap * tanh(logit_scale * logits / softcap) / temperature``.
    float32 arithmetic on 16-bit logits; the gradient has the dtype of the logits.

    Args:
        logits: ``[..., V]``, any floating dtype.
        targets: ``[...]`` int64, in ``[0, V)`` or ``ignore_index``.
        ignore_index: rows with this target give 0 and no gradient, whatever their logits hold.
        temperature: above 0.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        inplace_backward: let backward overwrite the logits with their gradient: no memory, and the fastest form. The logits must
            not be used again; they must not be a leaf or a view of one, nor an input of another operation's backward. Logits whose
            last dimension is not contiguous get a buffer of their own all the same.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"`` or ``"triton"``.

    Returns:
        ``TokenLogProbs`` with the shape of ``targets``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, a row whose log-probability is NaN.

    Example:
        >>> import torch, fastpref
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> fastpref.logprobs(logits, torch.tensor([1, 3])).logps.detach()
        tensor([-1.3863, -1.3863])
    """
    require_tensor("logits", logits)
    require_tensor("targets", targets)
    require_floating("logits", logits)
    if logits.dim() < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape [..., V] with V >= 1, found {list(logits.shape)}")
    require_shape("targets", targets, tuple(logits.shape[:-1]))
    require_same("targets", targets, "logits", logits, dtype=False)
    transform = make_transform(temperature, softcap, logit_scale)
    owner = logits if logits._base is None else logits._base
    if inplace_backward and owner.requires_grad and owner.is_leaf:
        raise ValueError(
            "inplace_backward: expected logits computed by the model, found a leaf that requires grad, or a view of one"
        )
    refuse_forward_mode(logits)
    backends.select(backend, logits.device, logits.dtype)
    rows = logits.reshape(-1, logits.shape[-1])
    ids = normalise_targets(targets.reshape(-1), logits.shape[-1], ignore_index)
    logps, lse = _logprobs(
        rows, ids, transform.logit_scale, softcap, transform.temperature, inplace_backward, backend or "auto"
    )
    refuse_nan(logps, ids, "logits")
    return TokenLogProbs(logps.view(targets.shape), lse.view(targets.shape))


# --- hidden states and a linear head ------------------------------------------------------------------------------------------


def active_rows(targets: Tensor) -> Tensor | None:
    """The rows that are not ignored, or ``None`` if all are used (or finding out would synchronise a GPU)."""
    if targets.device.type != "cpu":
        return None
    active = targets >= 0
    return None if bool(active.all()) else active.nonzero().squeeze(1)


def compact(active: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The active rows of each tensor, contiguous."""
    if active is None:
        return tuple(t.contiguous() for t in tensors)
    return tuple(t.index_select(0, active) for t in tensors)


def scatter_rows(active: Tensor | None, compacted: Tensor, rows: int) -> Tensor:
    """The inverse of :func:`compact`: zeros on the rows that were left out."""
    if active is None:
        return compacted
    return compacted.new_zeros(rows, *compacted.shape[1:]).index_copy_(0, active, compacted)


@torch.library.custom_op("fastpref::linear_logprobs", mutates_args=())
def _linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    vocab_chunk: int,
    row_block: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    transform = LogitTransform(logit_scale, softcap, temperature)
    head = Head(weight, bias, transform, backends.select(backend, hidden.device, hidden.dtype))
    active = active_rows(targets)
    x, t = compact(active, hidden, targets)
    with torch.autocast(hidden.device.type, enabled=False):
        logps, lse = statistics(head, x, t, Tiling(vocab_chunk, row_block))
    return scatter_rows(active, logps, hidden.shape[0]), scatter_rows(active, lse, hidden.shape[0])


@_linear_logprobs.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = hidden.new_empty(hidden.shape[0], dtype=accumulation_dtype(hidden.dtype))
    return rows, torch.empty_like(rows)


@torch.library.custom_op("fastpref::linear_logprobs_backward", mutates_args=())
def _linear_logprobs_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    vocab_chunk: int,
    row_block: int,
    backend: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    transform = LogitTransform(logit_scale, softcap, temperature)
    head = Head(weight, bias, transform, backends.select(backend, hidden.device, hidden.dtype))
    wanted = Needs(*needs)
    active = active_rows(targets)
    x, t, lse, a, b = compact(active, hidden, targets, lse, onehot_coef, softmax_coef)
    into = WeightGradient.start(head, wanted)
    with torch.autocast(hidden.device.type, enabled=False):
        dx = gradients(head, x, t, lse, a, b, Tiling(vocab_chunk, row_block), wanted, into)
    dw, db = into.finish(head)
    nothing = hidden.new_empty(0)
    full = nothing if dx is None else scatter_rows(active, dx, hidden.shape[0])
    return full, nothing.clone() if dw is None else dw, nothing.clone() if db is None else db


@_linear_logprobs_backward.register_fake
def _(hidden: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    needs = args[-1]
    return (
        hidden.new_empty(hidden.shape if needs[0] else (0,)),
        weight.new_empty(weight.shape if needs[1] else (0,)),
        weight.new_empty(weight.shape[:1] if needs[2] else (0,)),
    )


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, bias, targets, *ctx.options = inputs
    ctx.save_for_backward(hidden, weight, bias, targets, output[1])


def _linear_grad(ctx: Any, grad_logps: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    hidden, weight, bias, targets, lse = ctx.saved_tensors
    a, b = _coefficients(grad_logps, grad_lse)
    needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2]]
    grads = _linear_logprobs_backward(hidden, weight, bias, targets, lse, a, b, *ctx.options, needs)
    dx, dw, db = (g if needed else None for g, needed in zip(grads, needs, strict=True))
    return dx, dw, db, *([None] * 7)


_linear_logprobs.register_autograd(_linear_grad, setup_context=_linear_setup)


@dataclass(frozen=True)
class LinearInput:
    """Validated operands of a linear head, cast for autocast where it is on."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def requires_grad(self) -> bool:
        """Whether any gradient is wanted."""
        return torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (self.hidden, self.weight, self.bias)
        )


def check_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, prefix: str = "") -> LinearInput:
    """Types, shapes ``[T, H]``, ``[V, H]``, ``[V]``, one device and one dtype (autocast's where autocast is on)."""
    names = [f"{prefix}{n}" for n in ("hidden", "weight", "bias")]
    refuse_forward_mode(hidden, weight, bias)
    for name, tensor in zip(names, (hidden, weight, bias), strict=True):
        if tensor is not None:
            require_floating(name, require_tensor(name, tensor))
    require_shape(names[0], hidden, ("T", "H"))
    require_shape(names[1], weight, ("V", hidden.shape[1]))
    if weight.shape[0] == 0 or weight.shape[1] == 0:
        raise ValueError(f"{names[1]}: expected shape [V, H] with V, H >= 1, found {list(weight.shape)}")
    if bias is not None:
        require_shape(names[2], bias, (weight.shape[0],))
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    require_same(names[1], weight, names[0], hidden)
    if bias is not None:
        require_same(names[2], bias, names[0], hidden)
    return LinearInput(hidden, row_contiguous(weight), bias)


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    budget_bytes: int | None = None,
    backend: str | None = None,
) -> TokenLogProbs:
    """``log softmax(z(hidden @ weight.T + bias))[target]`` of every row without a ``[T, V]`` matrix, with gradients to all three.

    Logits are made by vocabulary chunks and made again in backward (plan D0: 8THV FLOPs). ``z`` as in :func:`logprobs`. Ignored rows
    never reach the head on the CPU (elsewhere: pack them away with :mod:`fastpref.packing`). Autocast is honoured.

    Args:
        hidden: ``[T, H]``.
        weight: ``[V, H]``, dtype and device of ``hidden``.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        bias: ``[V]`` or ``None``.
        ignore_index: rows with this target give 0 and no gradient.
        temperature: above 0.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        budget_bytes: scratch memory allowed; ``None`` for 64 MiB, or the least that works.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"`` or ``"triton"``.

    Returns:
        ``TokenLogProbs``, both fields ``[T]``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, a budget too small, a NaN row.

    Example:
        >>> import torch, fastpref
        >>> hidden, weight = torch.zeros(2, 8), torch.zeros(4, 8, requires_grad=True)
        >>> fastpref.linear_logprobs(hidden, weight, torch.tensor([1, -100])).logps.detach()
        tensor([-1.3863,  0.0000])
    """
    operands = check_linear(hidden, weight, bias)
    require_tensor("targets", targets)
    require_shape("targets", targets, (hidden.shape[0],))
    require_same("targets", targets, "hidden", hidden, dtype=False)
    transform = make_transform(temperature, softcap, logit_scale)
    backends.select(backend, hidden.device, operands.hidden.dtype)
    ids = normalise_targets(targets, weight.shape[0], ignore_index)
    problem = HeadProblem(
        rows=hidden.shape[0],
        vocab=weight.shape[0],
        hidden=hidden.shape[1],
        itemsize=operands.hidden.element_size(),
        gradients=operands.requires_grad,
        weight_gradient=operands.weight.requires_grad,
    )
    plan = plan_recompute(problem, budget_bytes)
    return run_recompute(operands, ids, transform, Tiling(plan.vocab_chunk, plan.row_block), backend)


def run_recompute(
    operands: LinearInput,
    ids: Tensor,
    transform: LogitTransform,
    tiling: Tiling,
    backend: str | None,
    source: str = "hidden",
) -> TokenLogProbs:
    """Plan D0 on validated operands and normalised targets."""
    logps, lse = _linear_logprobs(
        operands.hidden,
        operands.weight,
        operands.bias,
        ids,
        transform.logit_scale,
        transform.softcap,
        transform.temperature,
        tiling.vocab_chunk,
        tiling.row_block,
        backend or "auto",
    )
    refuse_nan(logps, ids, source)
    return TokenLogProbs(logps, lse)
