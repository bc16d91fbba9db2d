"""Stages 1 and 3 as differentiable functions: token log-probabilities from logits, or from hidden states and a linear head.

The work is registered with ``torch.library`` under ``fastpref::``, with fake kernels and autograd formulas, so that ``opcheck``,
``torch.compile`` and fake tensors know it. Both operators return the fields of ``RowStatistics`` in their order, with an empty tensor for
what was not asked for. The gradients of ``logps`` and ``lse`` reach the inputs; the other outputs are marked non-differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import backends
from ._checks import (
    inverse_temperatures,
    is_traced,
    normalise_targets,
    refuse_forward_mode,
    refuse_nan,
    require_floating,
    require_same,
    require_shape,
    require_tensor,
    row_contiguous,
)
from .backends.base import IGNORED, STATISTICS, Backend, LogitTransform, RowState, RowStatistics, accumulation_dtype
from .engine_costs import EngineCosts
from .errors import require_choice, require_positive
from .head_gemm import gradient_dtype
from .linear_head import (
    Head,
    Kept,
    Needs,
    Tiling,
    WeightGradient,
    gradients,
    kept_buffer,
    kept_form,
    stacked_statistics,
    statistics,
)
from .planner import HeadProblem, Plan, make_plan


@dataclass(frozen=True)
class TokenLogProbs:
    """Token log-probabilities of T rows, and the statistics that ``stats=`` asked for; everything is 0 on ignored rows.

    Attributes:
        logps: ``[T]`` ``log softmax(z)[target]``.
        lse: ``[T]`` ``logsumexp(z)``.
        entropy: ``[T]`` ``-sum_v p_v log p_v``, in nats; at least 0.
        log_sum_sq_probs: ``[T]`` ``log sum_v p_v^2``.
        argmax: ``[T]`` int64, the id of the largest logit, the lowest among equals.
        mean_logit: ``[T]`` ``mean_v z_v``.

    Floating fields are float32 (float64 for float64 input), natural logarithms. ``logps`` and ``lse`` are differentiable; the statistics are
    detached (``requires_grad`` is ``False``) and ``None`` unless asked for.
    """

    logps: Tensor
    lse: Tensor
    entropy: Tensor | None = None
    log_sum_sq_probs: Tensor | None = None
    argmax: Tensor | None = None
    mean_logit: Tensor | None = None


def check_stats(stats: Sequence[str]) -> str:
    """The validated ``stats=`` in the form that the operators take."""
    if isinstance(stats, str) or not isinstance(stats, (tuple, list)):
        raise TypeError(f"stats: expected a tuple of names, found {stats!r} ({type(stats).__name__})")
    for name in stats:
        require_choice("stats", name, STATISTICS)
    return ",".join(stats)


def make_transform(
    temperature: float | Tensor, softcap: float | None, logit_scale: float, targets: Tensor, ids: Tensor, like: Tensor
) -> LogitTransform:
    """The validated logit transform of the public arguments.

    Args:
        temperature: for all rows, or one for each of ``targets``.
        softcap: or ``None``.
        logit_scale: as it was given.
        targets: as they were given.
        ids: ``[R]`` the same, normalised.
        like: logits or hidden states, whose dtype decides the accumulation dtype.
    """
    require_positive("logit_scale", logit_scale)
    if softcap is not None:
        require_positive("softcap", softcap)
    if not isinstance(temperature, Tensor):
        require_positive("temperature", temperature)
        return LogitTransform(logit_scale, softcap, temperature)
    inverse = inverse_temperatures(temperature, targets, ids).to(accumulation_dtype(like.dtype))
    return LogitTransform(logit_scale, softcap, inv_temperature=inverse.contiguous())


# --- outputs of the operators -------------------------------------------------------------------------------------------------

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The fields of ``RowStatistics``; a tensor of no elements for one that was not asked for."""

_OUTPUTS = tuple(field.name for field in fields(TokenLogProbs))  # torch.compile cannot trace dataclasses.fields


def _pack(found: RowStatistics, active: Tensor | None, rows: int) -> Outputs:
    """The outputs for all ``rows``, of which ``active`` were run."""
    values = (getattr(found, field.name) for field in fields(found))
    logps, lse, *rest = (
        found.logps.new_empty(0) if value is None else scatter_rows(active, value, rows) for value in values
    )
    entropy, log_sum_sq_probs, argmax, mean_logit = rest
    return logps, lse, entropy, log_sum_sq_probs, argmax, mean_logit


def _fake_outputs(like: Tensor, stats: str) -> Outputs:
    state = RowState.start(like.shape[0], like.device, accumulation_dtype(like.dtype), stats.split(","))
    return _pack(state.statistics(state.s, 1), None, like.shape[0])


def _unpack(outputs: Outputs, stats: str, shape: torch.Size) -> TokenLogProbs:
    asked = ("logps", "lse", *stats.split(","))
    values = zip(_OUTPUTS, outputs, strict=True)
    return TokenLogProbs(**{name: value.view(shape) for name, value in values if name in asked})


def _save(ctx: Any, inputs: Sequence[Tensor | None], output: Outputs) -> None:
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*inputs, output[1])


# --- logits given -------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("fastpref::logprobs", mutates_args=())
def _logprobs(
    logits: Tensor,
    targets: Tensor,
    inv_temperature: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    inplace_backward: bool,
    backend: str,
    stats: str = "",
) -> Outputs:
    rows, vocab = logits.shape
    chosen = backends.select(backend, logits.device, logits.dtype, given_logits=True)
    state = RowState.start(rows, logits.device, accumulation_dtype(logits.dtype), stats.split(","))
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature)
    chosen.row_stats(row_contiguous(logits), targets, state, col0=0, transform=transform)
    return _pack(state.statistics(targets, vocab), None, rows)


@_logprobs.register_fake
def _(logits: Tensor, *args: Any) -> Outputs:
    return _fake_outputs(logits, args[7] if len(args) > 7 else "")


@torch.library.custom_op("fastpref::logprobs_backward", mutates_args=())
def _logprobs_backward(
    logits: Tensor,
    targets: Tensor,
    inv_temperature: Tensor | None,
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
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature)
    chosen = backends.select(backend, logits.device, logits.dtype, given_logits=True)
    chosen.row_grad(logits, targets, lse, onehot_coef, softmax_coef, out, col0=0, transform=transform)
    return out


@_logprobs_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("fastpref::logprobs_backward_inplace", mutates_args=("logits",))
def _logprobs_backward_inplace(
    logits: Tensor,
    targets: Tensor,
    inv_temperature: Tensor | None,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    backend: str,
) -> None:
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature)
    chosen = backends.select(backend, logits.device, logits.dtype, given_logits=True)
    chosen.row_grad(logits, targets, lse, onehot_coef, softmax_coef, logits, col0=0, transform=transform)


def _coefficients(grad_logps: Tensor, grad_lse: Tensor) -> tuple[Tensor, Tensor]:
    """``dL/dz = g_logps * (onehot - p) + g_lse * p``, as the two coefficients of ``row_grad``."""
    return grad_logps.contiguous(), (grad_logps - grad_lse).contiguous()


def _logprobs_setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.logit_scale, ctx.softcap, ctx.temperature, ctx.inplace, ctx.backend, _ = inputs[3:]
    _save(ctx, inputs[:3], output)


def _logprobs_grad(ctx: Any, grad_logps: Tensor, grad_lse: Tensor, *_: Any) -> tuple[Any, ...]:
    logits, targets, inv_temperature, lse = ctx.saved_tensors
    a, b = _coefficients(grad_logps, grad_lse)
    if ctx.inplace and row_contiguous(logits) is logits:  # else the rows overlap or are strided: out of place
        grad = logits.detach()
        # It increments the version of the logits: a graph kept for a second backward then fails its version check, loudly.
        _logprobs_backward_inplace(
            grad, targets, inv_temperature, lse, a, b, ctx.logit_scale, ctx.softcap, ctx.temperature, ctx.backend
        )
    else:
        grad = _logprobs_backward(
            logits, targets, inv_temperature, lse, a, b, ctx.logit_scale, ctx.softcap, ctx.temperature, ctx.backend
        )
    return grad, *([None] * 8)


_logprobs.register_autograd(_logprobs_grad, setup_context=_logprobs_setup)


def refuse_leaf(logits: Tensor) -> None:
    """Logits that backward overwrites are not a leaf's."""
    owner = logits if logits._base is None else logits._base
    if owner.requires_grad and owner.is_leaf:
        raise ValueError(
            "inplace_backward: expected logits computed by the model, found a leaf that requires grad, or a view of one"
        )


def logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    stats: Sequence[str] = (),
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
        temperature: above 0; a number, or a tensor with the shape of ``targets``, one for each row (what it holds on ignored rows does not matter).
            It gets no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        stats: statistics wanted beside ``logps`` and ``lse``, out of ``"entropy"``, ``"log_sum_sq_probs"``, ``"argmax"`` and
            ``"mean_logit"``; they come from the same sweep and are detached.
        inplace_backward: let backward overwrite the logits with their gradient: no memory, and the fastest form. The logits must
            not be used again; they must not be a leaf or a view of one, nor an input of another operation's backward. Logits whose
            last dimension is not contiguous get a buffer of their own all the same.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.

    Returns:
        ``TokenLogProbs`` with the shape of ``targets``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, an unknown statistic, a row whose log-probability is NaN.

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
    asked = check_stats(stats)
    if inplace_backward:
        refuse_leaf(logits)
    refuse_forward_mode(logits)
    backends.select(backend, logits.device, logits.dtype, given_logits=True)
    rows = logits.reshape(-1, logits.shape[-1])
    ids = normalise_targets(targets.reshape(-1), logits.shape[-1], ignore_index)
    transform = make_transform(temperature, softcap, logit_scale, targets, ids, logits)
    outputs = _logprobs(
        rows,
        ids,
        transform.inv_temperature,
        transform.logit_scale,
        softcap,
        transform.temperature,
        inplace_backward,
        backend or "auto",
        asked,
    )
    refuse_nan(outputs[0], ids, "logits")
    return _unpack(outputs, asked, targets.shape)


# --- hidden states and a linear head ------------------------------------------------------------------------------------------


def active_rows(targets: Tensor) -> Tensor | None:
    """The rows that are not ignored, or ``None`` if all are used (or finding out would synchronise a GPU)."""
    if targets.device.type != "cpu":
        return None
    active = targets >= 0
    return None if bool(active.all()) else active.nonzero().squeeze(1)


def contributing_rows(targets: Tensor, *coefs: Tensor) -> Tensor | None:
    """:func:`active_rows` without those whose coefficients are all exactly 0: they have no gradient. NaN is not 0."""
    if targets.device.type != "cpu":
        return None
    counts = (targets >= 0) & (torch.stack(coefs) != 0).any(0)
    return None if bool(counts.all()) else counts.nonzero().squeeze(1)


def rows_to_run(targets: Tensor, coefs: Sequence[Tensor], kept: int, products: int) -> tuple[Tensor | None, int]:
    """The rows whose gradients are formed, and how many of the first of them have kept logits, out of the first ``kept`` active ones.

    Kept logits lie side by side, so kept rows without a coefficient are run too, unless it is less work to make the logits of the others
    again, with ``products`` GEMMs for each row of a gradient.
    """
    contributing, active = contributing_rows(targets, *coefs), active_rows(targets)
    if contributing is None or kept == 0:
        return contributing, kept
    used = torch.arange(targets.shape[0]) if active is None else active
    held, kept = used[:kept], min(kept, used.shape[0])
    again = torch.isin(held, contributing).sum()
    if int(again) * (products + 1) < kept * products:
        return contributing, 0
    return torch.cat([held, contributing[int(again) :]]), kept


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


def pack_gradients(
    head: Head, hidden: Tensor, active: Tensor | None, dx: Tensor | None, into: WeightGradient
) -> tuple[Tensor, Tensor, Tensor]:
    """``(dX [T, H], dW, db)`` as an operator returns them: dX for all rows, a tensor of no elements for what is not needed."""
    dw, db = into.finish(head)
    full = None if dx is None else scatter_rows(active, dx, hidden.shape[0])
    parameters = (hidden, head.weight, head.weight if head.bias is None else head.bias)
    found = zip((full, dw, db), parameters, strict=True)
    x, w, b = (like.new_empty(0) if grad is None else grad for grad, like in found)
    return x, w, b


def fake_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pack_gradients` for fake tensors."""
    like = weight if bias is None else bias
    return (
        hidden.new_empty(hidden.shape if needs[0] else (0,)),
        weight.new_empty(weight.shape if needs[1] else (0,)),
        like.new_empty(weight.shape[:1] if needs[2] else (0,)),
    )


def linear_needs(ctx: Any, bias: Tensor | None) -> list[bool]:
    """Which of hidden, weight and bias, an operator's first three inputs, need a gradient."""
    return [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]


def only_needed(grads: Sequence[Tensor], needs: Sequence[bool]) -> Iterator[Tensor | None]:
    """The gradients as autograd wants them: ``None`` for what is not needed."""
    return (grad if needed else None for grad, needed in zip(grads, needs, strict=True))


LinearOutputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
""":data:`Outputs`, the log-probs of a reference that shares the head, and what is kept for backward (of no elements where there is none)."""


@torch.library.custom_op("fastpref::linear_logprobs", mutates_args=())
def _linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inv_temperature: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    vocab_chunk: int,
    row_block: int,
    backend: str,
    stats: str = "",
    ref_hidden: Tensor | None = None,
    boundary: int = 0,
    keep: bool = False,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
) -> LinearOutputs:
    # gradient_filter and main_grad are for the backward; the forward has no use for them.
    active, rows, tiling = active_rows(targets), hidden.shape[0], Tiling(vocab_chunk, row_block, boundary)
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature).rows(active)
    head = Head(weight, bias, transform, backends.select(backend, hidden.device, accumulation_dtype(hidden.dtype)))
    x, t = compact(active, hidden, targets)
    buffer = kept_buffer(head, x, boundary if keep else 0)
    kept = Kept(buffer, min(boundary, t.shape[0])) if keep else None
    with torch.autocast(hidden.device.type, enabled=False):
        if ref_hidden is None:
            found, ref_logps = statistics(head, x, t, tiling, kept, stats.split(",")), x.new_empty(0)
        else:
            (y,) = compact(active, ref_hidden)
            found, ref_logps = stacked_statistics(head, x, y, t, tiling, kept, stats.split(","))
            ref_logps = scatter_rows(active, ref_logps, rows)
    return *_pack(found, active, rows), ref_logps, buffer


@_linear_logprobs.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> LinearOutputs:
    optional: list[Any] = ["", None, 0, False]
    given = args[8:12]
    optional[: len(given)] = given
    stats, ref_hidden, boundary, keep = optional
    transform = LogitTransform(args[2], args[3], args[4])
    head = Head(weight, bias, transform, backends.select(args[7], hidden.device, accumulation_dtype(hidden.dtype)))
    outputs = _fake_outputs(hidden, stats)
    ref_logps = hidden.new_empty(0) if ref_hidden is None else torch.empty_like(outputs[0])
    elements, dtype = kept_form(head, hidden, boundary if keep else 0)
    return *outputs, ref_logps, torch.empty(elements, dtype=dtype, device=hidden.device)


def _linear_backward(
    operands: tuple[Tensor, Tensor, Tensor | None],
    targets: Tensor,
    lse: Tensor,
    coefs: tuple[Tensor, Tensor],
    transform: LogitTransform,
    tiling: Tiling,
    backend: str,
    kept: tuple[Tensor | None, int, Tensor | None],
    needs: Sequence[bool],
    gradient_filter: float | None,
    main_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(dX, dW, db)`` as :func:`pack_gradients` gives them; dW is added to ``main_grad`` where that is given."""
    hidden, weight, bias = operands
    buffer, kept_rows, logps = kept
    active, kept_rows = rows_to_run(targets, coefs, 0 if buffer is None else kept_rows, needs[0] + needs[1])
    chosen = backends.select(backend, hidden.device, accumulation_dtype(hidden.dtype))
    head, wanted = Head(weight, bias, transform.rows(active), chosen), Needs(*needs)
    x, t, lse, a, b = compact(active, hidden, targets, lse, *coefs)
    held = None
    if buffer is not None and kept_rows:
        held = Kept(buffer, min(kept_rows, t.shape[0]), logps=None if logps is None else compact(active, logps)[0])
    into = WeightGradient.start(head, wanted, main_grad=main_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        dx = gradients(head, x, t, lse, a, b, tiling, wanted, into, held, gradient_filter=gradient_filter)
    return pack_gradients(head, hidden, active, dx, into)


@torch.library.custom_op("fastpref::linear_logprobs_backward", mutates_args=())
def _linear_logprobs_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inv_temperature: Tensor | None,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    vocab_chunk: int,
    row_block: int,
    backend: str,
    kept: Tensor | None,
    kept_rows: int,
    logps: Tensor | None,
    needs: Sequence[bool],
    gradient_filter: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature)
    tiling, operands, coefs = Tiling(vocab_chunk, row_block), (hidden, weight, bias), (onehot_coef, softmax_coef)
    held = (kept, kept_rows, logps)
    return _linear_backward(
        operands, targets, lse, coefs, transform, tiling, backend, held, needs, gradient_filter, None
    )


@_linear_logprobs_backward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, weight, bias, args[14])


@torch.library.custom_op("fastpref::linear_logprobs_backward_into", mutates_args=("main_grad",))
def _linear_logprobs_backward_into(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inv_temperature: Tensor | None,
    lse: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    vocab_chunk: int,
    row_block: int,
    backend: str,
    kept: Tensor | None,
    kept_rows: int,
    logps: Tensor | None,
    needs: Sequence[bool],
    main_grad: Tensor,
    gradient_filter: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature)
    tiling, operands, coefs = Tiling(vocab_chunk, row_block), (hidden, weight, bias), (onehot_coef, softmax_coef)
    held = (kept, kept_rows, logps)
    return _linear_backward(
        operands, targets, lse, coefs, transform, tiling, backend, held, needs, gradient_filter, main_grad
    )


@_linear_logprobs_backward_into.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, weight, bias, (args[14][0], False, args[14][2]))


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: LinearOutputs) -> None:
    # main_grad is not saved for backward: other calls add to it in between, which a saved tensor's version check would refuse.
    ctx.options, (ctx.kept_rows, keep, ctx.gradient_filter, ctx.main_grad) = inputs[5:11], inputs[13:]
    ctx.set_materialize_grads(False)  # autograd would make zeros of the size of what is kept
    ctx.mark_non_differentiable(*output[2:])
    kept, logps = (output[-1], output[0]) if keep else (None, None)
    ctx.save_for_backward(*inputs[:5], output[1], kept, logps)


def linear_gradients(
    arguments: Sequence[Any], needs: Sequence[bool], gradient_filter: float | None, main_grad: Tensor | None
) -> list[Tensor | None]:
    """The gradients of hidden, weight and bias as autograd wants them, by the operator that fits; ``arguments`` are those before ``needs``."""
    if main_grad is None or not needs[1]:
        found = _linear_logprobs_backward(*arguments, needs, gradient_filter)
        return list(only_needed(found, needs))
    found = _linear_logprobs_backward_into(*arguments, needs, main_grad, gradient_filter)
    return list(only_needed(found, (needs[0], False, needs[2])))


def _linear_grad(ctx: Any, grad_logps: Tensor | None, grad_lse: Tensor | None, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias, targets, inv_temperature, lse, kept, logps = ctx.saved_tensors
    a, b = _coefficients(*(torch.zeros_like(lse) if g is None else g for g in (grad_logps, grad_lse)))
    needs = linear_needs(ctx, bias)
    held = (kept, ctx.kept_rows, logps)
    arguments = (hidden, weight, bias, targets, inv_temperature, lse, a, b, *ctx.options, *held)
    return *linear_gradients(arguments, needs, ctx.gradient_filter, ctx.main_grad), *([None] * 14)


_linear_logprobs.register_autograd(_linear_grad, setup_context=_linear_setup)


OPERAND_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    """Types, shapes ``[T, H]``, ``[V, H]``, ``[V]``, one device, and dtypes that go together (autocast's where autocast is on)."""
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
    for name, tensor in zip(names, (hidden, weight, bias), strict=True):
        if tensor is None:
            continue
        if tensor.dtype not in OPERAND_DTYPES:
            raise TypeError(f"{name}: expected float32, bfloat16, float16 or float64, found {tensor.dtype}")
        require_same(name, tensor, names[0], hidden, dtype=False)
        require_same_accumulation(name, tensor, names[0], hidden)
    return LinearInput(hidden, row_contiguous(weight), bias)


def require_same_accumulation(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """float64 goes with float64 only; the other dtypes with each other."""
    if accumulation_dtype(tensor.dtype) != accumulation_dtype(other.dtype):
        wanted = "torch.float64" if other.dtype == torch.float64 else "float32, bfloat16 or float16"
        raise TypeError(f"{name}: expected dtype {wanted} to go with {other_name}, found {tensor.dtype}")


def check_gradient_filter(threshold: float | None) -> float | None:
    """A threshold in (0, 1), or ``None``."""
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"gradient_filter: expected a number or None, found {threshold!r}")
    if not 0 < threshold < 1:
        raise ValueError(f"gradient_filter: expected a probability above 0 and below 1, found {threshold!r}")
    return float(threshold)


def check_main_grad(main_grad: Tensor | None, weight: Tensor) -> Tensor | None:
    """A buffer for dW: ``[V, H]`` float32 (float64 for a float64 weight) on the device of the weight, which requires grad."""
    if main_grad is None:
        return None
    require_shape("main_grad", require_tensor("main_grad", main_grad), tuple(weight.shape))
    require_same("main_grad", main_grad, "weight", weight, dtype=False)
    if main_grad.dtype != (wanted := accumulation_dtype(weight.dtype)):
        raise TypeError(f"main_grad: expected dtype {wanted}, found {main_grad.dtype}")
    if main_grad.stride(1) != 1 or main_grad.stride(0) < main_grad.shape[1]:
        raise ValueError(
            f"main_grad: expected rows that are contiguous and do not overlap, found strides {tuple(main_grad.stride())}"
        )
    if main_grad.requires_grad:
        raise ValueError("main_grad: expected a buffer that does not require grad, found one that does")
    if torch.is_grad_enabled() and not weight.requires_grad:
        raise ValueError("main_grad: expected a weight that requires grad, found a frozen one: there is no dW to add")
    return main_grad


@overload
def linear_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, explain: Literal[True], **options: Any
) -> Plan: ...
@overload
def linear_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, explain: Literal[False] = False, **options: Any
) -> TokenLogProbs: ...
def linear_logprobs(  # type: ignore[misc]  # the options are written out once, here
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    stats: Sequence[str] = (),
    budget_bytes: int | None = None,
    plan: str | None = None,
    backend: str | None = None,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
    explain: bool = False,
) -> TokenLogProbs | Plan:
    """``log softmax(z(hidden @ weight.T + bias))[target]`` of every row without a ``[T, V]`` matrix, with gradients to all three.

    Logits are made by vocabulary chunks and made again in backward (plan D0: 8THV FLOPs), but for those of as many rows as the budget
    keeps from the forward call to backward (plan D3: down to 6THV). ``z`` as in :func:`logprobs`. Ignored rows never reach the head on
    the CPU (elsewhere: pack them away with :mod:`fastpref.packing`). Autocast is honoured.

    float32, bfloat16 and float16 go together in any combination (float64 with float64). Logits are float32 and never rounded to 16 bits.
    Each gradient has the dtype of its tensor.

    Args:
        hidden: ``[T, H]``.
        weight: ``[V, H]``, on the device of ``hidden``.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        bias: ``[V]`` or ``None``.
        ignore_index: rows with this target give 0 and no gradient.
        temperature: above 0; a number, or a tensor with the shape of ``targets``, one for each row (what it holds on ignored rows does not matter).
            It gets no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        stats: statistics wanted beside ``logps`` and ``lse``, as for :func:`logprobs`.
        budget_bytes: scratch memory allowed; ``None`` for 64 MiB, or the least that works. Plan D3 holds up to that much until backward.
        plan: force ``"D0"`` or ``"D3"``; ``None`` lets :mod:`fastpref.planner` choose.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.
        gradient_filter: leave vocabulary blocks out of the gradients' GEMMs in which no softmax of a block of rows (128 columns by 128 rows;
            32 by 32 in the tile kernels) reaches this probability and that hold none of their targets (arXiv 2411.09009, which takes
            ``2 ** -12`` for bfloat16). ``None``: the exact gradients. What
            is left out of a logit's gradient is below the threshold times its row's coefficient. With ``2 ** -12`` and V=32768 dX and dW
            have a relative error of 5e-4 to 3.5e-3 where the softmax is peaked (3 % of the work is left) and up to 6e-3 where it is flat
            (39 % is left, or all), and more where rows are so sure of their targets that the gradient itself vanishes;
            ``bench/gradient_filter.py``. The Triton backend's head forms the exact gradients all the same: which blocks could go is not known
            without waiting for the GPU.
        main_grad: ``[V, H]`` float32 buffer with contiguous rows that backward adds dW to, in float32 (Megatron's name); ``weight.grad`` then gets nothing
            from this call. The weight has to require grad. float64 for a float64 weight.
        explain: return the ``Plan`` (predicted FLOPs, bytes, peak memory; every other plan and why it was not taken) and run nothing.

    Returns:
        ``TokenLogProbs``, every field ``[T]``; with ``explain`` the :class:`fastpref.planner.Plan`.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, an unknown statistic, a budget too small, a plan that is
            not valid here, a NaN row.

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
    check_stats(stats)
    ids = normalise_targets(targets, weight.shape[0], ignore_index)
    transform = make_transform(temperature, softcap, logit_scale, targets, ids, operands.hidden)
    threshold, main_grad = check_gradient_filter(gradient_filter), check_main_grad(main_grad, operands.weight)
    chosen = backends.select(backend, hidden.device, accumulation_dtype(operands.hidden.dtype))
    problem = head_problem(operands, ids, transform, chosen, threshold, main_grad, scalar_loss=False)
    made = make_plan(problem, budget_bytes, plan)
    if explain:
        return made
    tiling = Tiling(made.vocab_chunk, made.row_block, made.kept_rows)
    return run_recompute(
        operands,
        ids,
        transform,
        tiling,
        backend,
        stats=stats,
        keep=made.design == "D3",
        gradient_filter=threshold,
        main_grad=main_grad,
    )[0]


def count_active(ids: Tensor) -> int:
    """The rows that reach the head: those that are not ignored where that can be known without a synchronisation, else all."""
    on_host = ids.device.type == "cpu" and not is_traced(ids)
    return int((ids != IGNORED).sum()) if on_host else ids.shape[0]


def engine_costs(operands: LinearInput, transform: LogitTransform, backend: Backend) -> EngineCosts | None:
    """The costs of the engine that runs these operands; ``None`` where none does."""
    hidden, weight = operands.hidden, operands.weight
    engine = Head(weight, operands.bias, transform, backend).engine(hidden)
    return None if engine is None else engine.costs(hidden.dtype, weight.dtype)


def head_problem(
    operands: LinearInput,
    ids: Tensor,
    transform: LogitTransform,
    backend: Backend,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
    **more: Any,
) -> HeadProblem:
    """What the planner needs to know of a head and its rows; ``more`` are fields of ``HeadProblem`` that only the caller knows."""
    rows, (hidden, weight, bias) = count_active(ids), (operands.hidden, operands.weight, operands.bias)
    # A divergence looks at two heads' logits side by side, chunk by chunk.
    tiles = None if more.get("divergence") else engine_costs(operands, transform, backend)
    float16 = (tiles is None or tiles.narrow_products) and gradient_dtype(hidden, weight) == torch.float16
    return HeadProblem(
        rows=rows,
        vocab=weight.shape[0],
        hidden=hidden.shape[1],
        itemsize=hidden.element_size(),
        weight_itemsize=weight.element_size(),
        gradients=operands.requires_grad,
        hidden_gradient=hidden.requires_grad,
        weight_gradient=weight.requires_grad,
        bias_gradient=bias is not None and bias.requires_grad,
        float16=float16,
        ignored=rows < ids.shape[0] or not hidden.is_contiguous(),
        device="cpu" if ids.device.type == "cpu" else "gpu",
        mixed=hidden.dtype != weight.dtype,
        main_grad=main_grad is not None,
        gradient_filter=gradient_filter is not None,
        tiles=tiles,
        softcap=transform.softcap is not None,
        **more,
    )


def run_recompute(
    operands: LinearInput,
    ids: Tensor,
    transform: LogitTransform,
    tiling: Tiling,
    backend: str | None,
    source: str = "hidden",
    stats: Sequence[str] = (),
    shared: Tensor | None = None,
    keep: bool = False,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
) -> tuple[TokenLogProbs, Tensor]:
    """Plans D0 and D3 on validated operands and normalised targets.

    ``shared [T, H]`` are the hidden states of a reference with the same head, whose log-probs ``[T]`` are the second value (else of no
    elements). ``keep``: the logits of the first ``tiling.boundary`` rows stay until backward.
    """
    asked = check_stats(stats)
    outputs = _linear_logprobs(
        operands.hidden,
        operands.weight,
        operands.bias,
        ids,
        transform.inv_temperature,
        transform.logit_scale,
        transform.softcap,
        transform.temperature,
        tiling.vocab_chunk,
        tiling.row_block,
        backend or "auto",
        asked,
        shared,
        tiling.boundary,
        keep,
        gradient_filter,
        main_grad,
    )
    refuse_nan(outputs[0], ids, source)
    if shared is not None:
        refuse_nan(outputs[6], ids, "reference hidden")
    return _unpack(outputs[:6], asked, ids.shape), outputs[6]
