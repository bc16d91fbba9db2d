"""Token log-probabilities of a policy and a reference together with the KL divergence between them over the whole vocabulary.

Both distributions stream by side by side, by vocabulary chunks: nothing of size ``[T, V]`` is made besides the gradient of logits that were
given. Forward: ``KL(p_ref || p) = sum_v p_ref (log p_ref - log p)``, with gradient ``p - p_ref`` in the logit ``z`` (the direction of TDPO,
arXiv 2404.11999). Reverse: ``KL(p || p_ref) = sum_v p (log p - log p_ref)``, with gradient ``p (log p - log p_ref - KL)``.

The operators are registered with ``torch.library`` under ``fastpref::``. They return ``(logps, lse, ref_logps, ref_lse, kl)``; gradients of
``logps``, ``lse`` and ``kl`` reach the policy's inputs, and nothing reaches the reference's: ``ref_logps`` and ``ref_lse`` are marked
non-differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

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
from .backends.base import Direction, KlState, LogitTransform, accumulation_dtype
from .errors import require_choice
from .linear_head import Head, Needs, Tiling, WeightGradient, divergence, divergence_gradients
from .planner import plan_recompute
from .token_logprobs import (
    LinearInput,
    active_rows,
    check_linear,
    compact,
    contributing_rows,
    fake_gradients,
    head_problem,
    linear_needs,
    make_transform,
    only_needed,
    pack_gradients,
    require_same_accumulation,
    scatter_rows,
)

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The fields of :class:`TokenKL`."""


@dataclass(frozen=True)
class TokenKL:
    """Log-probabilities and divergences of T rows; everything is 0 on ignored rows.

    Attributes:
        logps: ``[T]`` ``log p[target]`` of the policy.
        lse: ``[T]`` ``logsumexp(z)`` of the policy.
        ref_logps: ``[T]`` ``log p_ref[target]``.
        ref_lse: ``[T]`` ``logsumexp(z_ref)``.
        kl: ``[T]`` the divergence over the vocabulary, in nats and never below 0. It is ``+inf`` where an entry that the measuring
            distribution allows is excluded (``-inf``) by the other one.

    All are float32 (float64 for float64 input). ``logps``, ``lse`` and ``kl`` are differentiable with respect to the policy's inputs;
    ``ref_logps`` and ``ref_lse`` are detached. Where policy and reference hold the same numbers ``logps`` and ``ref_logps`` are the same
    bits, and ``kl`` and its gradient are exactly 0. The gradient of a ``kl`` of ``+inf`` is not finite in the reverse direction.
    """

    logps: Tensor
    lse: Tensor
    ref_logps: Tensor
    ref_lse: Tensor
    kl: Tensor


def check_direction(direction: str) -> Direction:
    """``"forward"`` or ``"reverse"``."""
    require_choice("direction", direction, DIRECTIONS)
    return cast(Direction, direction)


# --- what both kinds of operators share ---------------------------------------------------------------------------------------


def _fake_outputs(like: Tensor) -> Outputs:
    a, b, c, d, e = (like.new_empty(like.shape[0], dtype=accumulation_dtype(like.dtype)) for _ in range(5))
    return a, b, c, d, e


def _save(ctx: Any, inputs: Sequence[Tensor | None], output: Outputs) -> None:
    _, lse, ref_logps, ref_lse, kl = output
    ctx.mark_non_differentiable(ref_logps, ref_lse)
    ctx.save_for_backward(*inputs, lse, ref_lse, kl)


def _coefficients(grads: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """``dL/dz = g_logps (onehot - p) + g_lse p + g_kl dKL/dz``, as the three coefficients of ``row_kl_grad``."""
    grad_logps, grad_lse, _, _, grad_kl = grads
    return grad_logps.contiguous(), (grad_logps - grad_lse).contiguous(), grad_kl.contiguous()


def _checked(outputs: Outputs, ids: Tensor, source: str, ref_source: str) -> Outputs:
    """The outputs, unless a log-probability is NaN where that may be looked at."""
    refuse_nan(outputs[0], ids, source)
    refuse_nan(outputs[2], ids, ref_source)
    return outputs


# --- logits given -------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("fastpref::kl", mutates_args=())
def _kl(
    logits: Tensor,
    ref_logits: Tensor,
    targets: Tensor,
    inv_temperature: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    direction: str,
    backend: str,
) -> Outputs:
    way = cast(Direction, direction)
    chosen = backends.select(backend, logits.device, logits.dtype, given_logits=True)
    state = KlState.start(logits.shape[0], logits.device, accumulation_dtype(logits.dtype))
    chosen.row_kl_stats(
        row_contiguous(logits),
        row_contiguous(ref_logits),
        targets,
        state,
        col0=0,
        transform=LogitTransform(logit_scale, softcap, temperature, inv_temperature),
        direction=way,
    )
    return state.finish(targets, way)


@_kl.register_fake
def _(logits: Tensor, *_: Any) -> Outputs:
    return _fake_outputs(logits)


@torch.library.custom_op("fastpref::kl_backward", mutates_args=())
def _kl_backward(
    logits: Tensor,
    ref_logits: Tensor,
    targets: Tensor,
    inv_temperature: Tensor | None,
    lse: Tensor,
    ref_lse: Tensor,
    kl: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    kl_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    direction: str,
    backend: str,
) -> Tensor:
    logits = row_contiguous(logits)
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    chosen = backends.select(backend, logits.device, logits.dtype, given_logits=True)
    chosen.row_kl_grad(
        logits,
        row_contiguous(ref_logits),
        targets,
        lse,
        ref_lse,
        kl,
        onehot_coef,
        softmax_coef,
        kl_coef,
        out,
        col0=0,
        transform=LogitTransform(logit_scale, softcap, temperature, inv_temperature),
        direction=cast(Direction, direction),
    )
    return out


@_kl_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _kl_setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.options = inputs[4:]
    _save(ctx, inputs[:4], output)


def _kl_grad(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    return _kl_backward(*ctx.saved_tensors, *_coefficients(grads), *ctx.options), *([None] * 8)


_kl.register_autograd(_kl_grad, setup_context=_kl_setup)


def token_kl(
    logits: Tensor,
    ref_logits: Tensor,
    targets: Tensor,
    *,
    direction: str = "forward",
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    backend: str | None = None,
) -> TokenKL:
    """Log-probabilities of the targets under policy and reference, and the KL divergence between the two, of every row.

    ``forward``: ``KL(p_ref || p)`` (TDPO, arXiv 2404.11999); ``reverse``: ``KL(p || p_ref)``. The transform of :func:`fastpref.logprobs`
    applies to both. float32 arithmetic on 16-bit logits; the gradient has the dtype of the logits.

    Args:
        logits: ``[..., V]`` of the policy, any floating dtype.
        ref_logits: ``[..., V]`` of the reference, dtype and device of ``logits``; gets no gradient.
        targets: ``[...]`` int64, in ``[0, V)`` or ``ignore_index``.
        direction: ``"forward"`` or ``"reverse"``.
        ignore_index: rows with this target give 0 and no gradient, whatever their logits hold.
        temperature: above 0; a number, or a tensor with the shape of ``targets``, one for each row (what it holds on ignored rows does not matter).
            It gets no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.

    Returns:
        ``TokenKL`` with the shape of ``targets``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, an unknown direction, a target outside the vocabulary, a NaN row.

    Example:
        >>> import torch
        >>> from fastpref import token_kl
        >>> logits, ref_logits = torch.tensor([[0.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1.0]])
        >>> token_kl(logits, ref_logits, torch.tensor([1])).kl.detach()
        tensor([0.1109])
    """
    for name, tensor in (("logits", logits), ("ref_logits", ref_logits)):
        require_floating(name, require_tensor(name, tensor))
    require_tensor("targets", targets)
    if logits.dim() < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape [..., V] with V >= 1, found {list(logits.shape)}")
    require_shape("ref_logits", ref_logits, tuple(logits.shape))
    require_same("ref_logits", ref_logits, "logits", logits)
    require_shape("targets", targets, tuple(logits.shape[:-1]))
    require_same("targets", targets, "logits", logits, dtype=False)
    way = check_direction(direction)
    refuse_forward_mode(logits, ref_logits)
    backends.select(backend, logits.device, logits.dtype, given_logits=True)
    vocab = logits.shape[-1]
    ids = normalise_targets(targets.reshape(-1), vocab, ignore_index)
    transform = make_transform(temperature, softcap, logit_scale, targets, ids, logits)
    outputs = _kl(
        logits.reshape(-1, vocab),
        ref_logits.detach().reshape(-1, vocab),
        ids,
        transform.inv_temperature,
        transform.logit_scale,
        softcap,
        transform.temperature,
        way,
        backend or "auto",
    )
    outputs = _checked(outputs, ids, "logits", "ref_logits")
    return TokenKL(*(value.view(targets.shape) for value in outputs))


# --- hidden states and linear heads -------------------------------------------------------------------------------------------


def _heads(
    weight: Tensor,
    bias: Tensor | None,
    ref_weight: Tensor,
    ref_bias: Tensor | None,
    transform: LogitTransform,
    backend: str,
) -> tuple[Head, Head]:
    chosen = backends.select(backend, weight.device, accumulation_dtype(weight.dtype))
    return Head(weight, bias, transform, chosen), Head(ref_weight, ref_bias, transform, chosen)


@torch.library.custom_op("fastpref::linear_kl", mutates_args=())
def _linear_kl(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    ref_bias: Tensor | None,
    targets: Tensor,
    inv_temperature: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    direction: str,
    vocab_chunk: int,
    row_block: int,
    backend: str,
) -> Outputs:
    way, rows = cast(Direction, direction), hidden.shape[0]
    active = active_rows(targets)
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature).rows(active)
    head, ref_head = _heads(weight, bias, ref_weight, ref_bias, transform, backend)
    x, y, t = compact(active, hidden, ref_hidden, targets)
    with torch.autocast(hidden.device.type, enabled=False):
        state = divergence(head, x, ref_head, y, t, Tiling(vocab_chunk, row_block), way)
    a, b, c, d, e = (scatter_rows(active, value, rows) for value in state.finish(t, way))
    return a, b, c, d, e


@_linear_kl.register_fake
def _(hidden: Tensor, *_: Any) -> Outputs:
    return _fake_outputs(hidden)


@torch.library.custom_op("fastpref::linear_kl_backward", mutates_args=())
def _linear_kl_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    ref_bias: Tensor | None,
    targets: Tensor,
    inv_temperature: Tensor | None,
    lse: Tensor,
    ref_lse: Tensor,
    kl: Tensor,
    onehot_coef: Tensor,
    softmax_coef: Tensor,
    kl_coef: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    direction: str,
    vocab_chunk: int,
    row_block: int,
    backend: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    active, wanted = contributing_rows(targets, onehot_coef, softmax_coef, kl_coef), Needs(*needs)
    transform = LogitTransform(logit_scale, softcap, temperature, inv_temperature).rows(active)
    head, ref_head = _heads(weight, bias, ref_weight, ref_bias, transform, backend)
    x, y, t = compact(active, hidden, ref_hidden, targets)
    lse, ref_lse, kl, a, b, c = compact(active, lse, ref_lse, kl, onehot_coef, softmax_coef, kl_coef)
    into, tiling = WeightGradient.start(head, wanted), Tiling(vocab_chunk, row_block)
    with torch.autocast(hidden.device.type, enabled=False):
        dx = divergence_gradients(
            head, x, ref_head, y, t, (lse, ref_lse, kl), (a, b, c), tiling, cast(Direction, direction), wanted, into
        )
    return pack_gradients(head, hidden, active, dx, into)


@_linear_kl_backward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, weight, bias, args[-1])


def _linear_kl_setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.options = inputs[8:]
    _save(ctx, inputs[:8], output)


def _linear_kl_grad(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    needs = linear_needs(ctx, ctx.saved_tensors[2])
    made = _linear_kl_backward(*ctx.saved_tensors, *_coefficients(grads), *ctx.options, needs)
    return *only_needed(made, needs), *([None] * 12)


_linear_kl.register_autograd(_linear_kl_grad, setup_context=_linear_kl_setup)


def check_reference(reference: Sequence[Tensor | None], operands: LinearInput, rows: int) -> LinearInput:
    """The reference's ``(hidden [T, H'], weight [V, H'][, bias [V]])``, detached; T, V and device are the policy's, dtypes its own."""
    if not isinstance(reference, (tuple, list)):
        raise TypeError(f"reference: expected (hidden, weight[, bias]), found {type(reference).__name__}")
    if len(reference) not in (2, 3):
        raise ValueError(f"reference: expected (hidden, weight[, bias]), found {len(reference)} items")
    names = ("reference hidden", "reference weight", "reference bias")
    given = [
        None if value is None and name == names[2] else require_tensor(name, value).detach()
        for name, value in zip(names, reference, strict=False)
    ]
    hidden, weight, bias = (*given, None)[:3]
    checked = check_linear(cast(Tensor, hidden), cast(Tensor, weight), bias, "reference ")
    require_shape(names[0], checked.hidden, (rows, "H"))
    require_shape(names[1], checked.weight, (operands.weight.shape[0], "H"))
    require_same(names[0], checked.hidden, "hidden", operands.hidden, dtype=False)
    require_same_accumulation(names[0], checked.hidden, "hidden", operands.hidden)
    return checked


def linear_token_kl(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    reference: Sequence[Tensor | None],
    direction: str = "forward",
    bias: Tensor | None = None,
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    budget_bytes: int | None = None,
    backend: str | None = None,
) -> TokenKL:
    """:func:`token_kl` of two linear heads without a ``[T, V]`` matrix, with gradients to the policy's hidden states, weight and bias.

    Logits of both heads are made by vocabulary chunks, and made again in backward. Ignored rows never reach the heads on the CPU. Autocast
    is honoured.

    Args:
        hidden: ``[T, H]`` of the policy.
        weight: ``[V, H]``, on the device of ``hidden``; dtypes go together as in :func:`fastpref.linear_logprobs`.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        reference: ``(hidden [T, H'], weight [V, H'][, bias [V]])``, same device; H' and dtypes may differ from the policy's. Gets no gradient.
        direction: ``"forward"`` for ``KL(p_ref || p)``, ``"reverse"`` for ``KL(p || p_ref)``.
        bias: ``[V]`` or ``None``.
        ignore_index: rows with this target give 0 and no gradient.
        temperature: above 0; a number, or a tensor with the shape of ``targets``, one for each row (what it holds on ignored rows does not matter).
            It gets no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        budget_bytes: scratch memory allowed for both heads' chunks and accumulators; ``None`` for 64 MiB, or the least that works.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.

    Returns:
        ``TokenKL``, every field ``[T]``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: wrong shapes or devices, an unknown direction, a target outside the vocabulary, a budget too small, a NaN row.

    Example:
        >>> import torch
        >>> from fastpref import linear_token_kl
        >>> hidden, weight = torch.zeros(2, 8), torch.randn(4, 8, requires_grad=True)
        >>> out = linear_token_kl(hidden, weight, torch.tensor([1, -100]), reference=(hidden, weight))
        >>> out.kl.detach(), out.logps.detach()
        (tensor([0., 0.]), tensor([-1.3863,  0.0000]))
    """
    operands = check_linear(hidden, weight, bias)
    rows, vocab = hidden.shape[0], weight.shape[0]
    other = check_reference(reference, operands, rows)
    require_shape("targets", require_tensor("targets", targets), (rows,))
    require_same("targets", targets, "hidden", hidden, dtype=False)
    way = check_direction(direction)
    chosen = backends.select(backend, hidden.device, accumulation_dtype(operands.hidden.dtype))
    ids = normalise_targets(targets, vocab, ignore_index)
    transform = make_transform(temperature, softcap, logit_scale, targets, ids, operands.hidden)
    more: dict[str, Any] = {"online_reference": True, "divergence": True, "reference_hidden": other.hidden.shape[1]}
    problem = head_problem(operands, ids, transform, chosen, scalar_loss=False, **more)
    plan = plan_recompute(problem, budget_bytes)
    return run_recompute_kl(operands, other, ids, transform, Tiling(plan.vocab_chunk, plan.row_block), way, backend)


def run_recompute_kl(
    operands: LinearInput,
    reference: LinearInput,
    ids: Tensor,
    transform: LogitTransform,
    tiling: Tiling,
    direction: Direction,
    backend: str | None,
) -> TokenKL:
    """:func:`linear_token_kl` on validated operands and normalised targets."""
    outputs = _linear_kl(
        operands.hidden,
        operands.weight,
        operands.bias,
        reference.hidden.detach(),
        reference.weight.detach(),
        None if reference.bias is None else reference.bias.detach(),
        ids,
        transform.inv_temperature,
        transform.logit_scale,
        transform.softcap,
        transform.temperature,
        direction,
        tiling.vocab_chunk,
        tiling.row_block,
        backend or "auto",
    )
    return TokenKL(*_checked(outputs, ids, "hidden", "reference hidden"))
