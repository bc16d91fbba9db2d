"""All three stages: a preference loss from sequence log-probs, or from hidden states in one pass where the plan allows.

:func:`linear_preference_loss` runs plan D0 (token log-probs, objective, recomputing backward) for any objective, and plan D1 (one
group's logits resident until its coefficients are known, gradients formed in the forward call) where the objective separates by
pair. The loss value comes from the same K numbers through the same code in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import backends
from ._checks import (
    check_cu_seqlens,
    is_traced,
    may_synchronise,
    normalise_targets,
    require_floating,
    require_same,
    require_shape,
    require_tensor,
)
from .backends.base import IGNORED
from .errors import nearest
from .linear_head import Head, Tiling
from .objectives import hyper_parameters, lookup, objective
from .objectives.base import Objective, SequenceBatch
from .packing import segment_sum, wide_dtype
from .planner import HeadProblem, Plan, make_plan
from .resident import PackedTargets, attach_gradients, run_resident
from .token_logprobs import LinearInput, TokenLogProbs, check_linear, make_transform, run_recompute

Reference = Tensor | TokenLogProbs | Sequence[Tensor | None] | None
"""``None``; sequence ``[K]`` or token ``[T]`` log-probs; or the reference's ``(hidden, weight[, bias])``."""


@dataclass(frozen=True)
class PreferenceOutput:
    """What a preference loss returns.

    Attributes:
        loss: scalar, float32 (float64 for float64 input), the mean over items; the one differentiable field of
            :func:`linear_preference_loss`.
        losses: ``[N]`` one loss per item (a pair), float64; differentiable only from :func:`preference_loss`.
        metrics: detached scalars under TRL's names (``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ...).
        logps: ``[K]`` detached sequence log-probs of the policy, float64.
        ref_logps: ``[K]`` detached, of the reference, or ``None``.
        plan: how the head was run; ``None`` from :func:`preference_loss`.
    """

    loss: Tensor
    losses: Tensor
    metrics: dict[str, Tensor]
    logps: Tensor
    ref_logps: Tensor | None
    plan: Plan | None = None


def resolve_objective(given: str | Objective, options: dict[str, Any]) -> tuple[Objective, dict[str, Tensor]]:
    """The objective, and the data that it asked for, out of a call's keyword arguments."""
    if isinstance(given, str):
        known = hyper_parameters(lookup(given))
        chosen = objective(given, **{k: v for k, v in options.items() if k in known})
        rest = {k: v for k, v in options.items() if k not in known}
    elif isinstance(given, Objective):
        known, chosen, rest = [], given, dict(options)
        for key in options:
            if key in hyper_parameters(type(given)):
                raise TypeError(
                    f"{key}: is a hyper-parameter that {given!r} already has; give it to fastpref.objective(...) instead"
                )
    else:
        raise TypeError(f"objective: expected a name or an Objective, found {type(given).__name__}")
    wanted = chosen.traits.data
    for key in rest:
        if key not in wanted:
            names = [*known, *wanted]
            raise TypeError(
                f"{chosen.name}: unknown argument {key!r}{nearest(key, names)} (takes: {', '.join(names) or 'nothing more'})"
            )
    for key in wanted:
        if key not in rest:
            raise TypeError(f"{chosen.name}: missing argument {key!r}")
    return chosen, rest


def refuse_nan_reference(reference: Tensor) -> None:
    """NaN in a precomputed reference is an error that names the sequence, where values may be looked at."""
    if is_traced(reference) or not may_synchronise(reference.device):
        return
    bad = reference.isnan()
    if bool(bad.any()):
        raise ValueError(f"reference: the log-probability of sequence {int(bad.nonzero()[0])} is NaN")


def check_reference_presence(chosen: Objective, given: bool) -> None:
    """The objective's trait against what the call gave."""
    if given and chosen.traits.reference == "none":
        raise ValueError(f"{chosen.name}: takes no reference, found one")
    if not given and chosen.traits.reference == "required":
        raise ValueError(f"{chosen.name}: needs a reference, found None")


def evaluate(chosen: Objective, batch: SequenceBatch, dtype: torch.dtype, plan: Plan | None = None) -> PreferenceOutput:
    """Stage 2 on K numbers; ``loss`` in ``dtype``."""
    chosen.check(batch)
    losses = chosen.losses(batch)
    return PreferenceOutput(
        loss=losses.mean().to(dtype),
        losses=losses,
        metrics=chosen.metrics(batch),
        logps=batch.policy.detach(),
        ref_logps=None if batch.reference is None else batch.reference.detach(),
        plan=plan,
    )


def preference_loss(
    objective: str | Objective,
    policy: Tensor,
    reference: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    **data: Any,
) -> PreferenceOutput:
    """A preference loss from sequence log-probabilities.

    Args:
        objective: a name (hyper-parameters then go into ``data``, for example ``beta=0.1``) or an ``Objective``.
        policy: ``[K]`` token sums of log-probs; pairwise objectives take N chosen, then the N rejected of the same pairs.
        reference: ``[K]`` the same under the reference, or ``None`` where the objective allows it. No gradient flows to it.
        lengths: ``[K]`` completion tokens; needed by objectives that take token means.
        **data: hyper-parameters (with a name) and the tensors that the objective declares.

    Returns:
        ``PreferenceOutput``.

    Raises:
        TypeError: an unknown option or a wrong type.
        ValueError: wrong shapes, an odd number of sequences, a missing or superfluous reference.

    Example:
        >>> import torch, fastpref
        >>> logps = torch.tensor([-10.0, -12.0], requires_grad=True)
        >>> fastpref.preference_loss("sigmoid", logps, logps.detach(), beta=0.1).loss.item()  # policy = reference: ln 2
        0.6931471824645996
    """
    chosen, tensors = resolve_objective(objective, data)
    require_floating("policy", require_tensor("policy", policy))
    require_shape("policy", policy, ("K",))
    check_reference_presence(chosen, reference is not None)
    if reference is not None:
        require_floating("reference", require_tensor("reference", reference))
        require_shape("reference", reference, tuple(policy.shape))
        require_same("reference", reference, "policy", policy, dtype=False)
        refuse_nan_reference(reference)
    if lengths is None:
        if chosen.traits.token_reduction == "mean":
            raise ValueError(f"{chosen.name}: takes token means and needs lengths, found None")
        lengths = torch.ones(policy.shape, dtype=torch.int64, device=policy.device)
    require_shape("lengths", lengths, tuple(policy.shape))
    for name, value in tensors.items():
        require_shape(name, require_tensor(name, value), tuple(policy.shape))
    wide = wide_dtype(policy.device)
    batch = SequenceBatch(
        policy.to(wide), None if reference is None else reference.detach().to(wide), lengths.clamp_min(1), tensors
    )
    return evaluate(chosen, batch, torch.float64 if policy.dtype == torch.float64 else torch.float32)


def _precomputed(reference: Tensor, rows: PackedTargets) -> Tensor:
    """Sequence log-probs ``[K]`` of a precomputed reference given per sequence or per token."""
    total, sequences = rows.ids.shape[0], rows.lengths.shape[0]
    require_floating("reference", reference)
    require_same("reference", reference, "targets", rows.ids, dtype=False)
    if reference.dim() != 1 or reference.shape[0] not in (sequences, total):
        raise ValueError(
            f"reference: expected sequence log-probs [{sequences}] or token log-probs [{total}], found {list(reference.shape)}"
        )
    reference = reference.detach().to(wide_dtype(reference.device))
    if reference.shape[0] == total:  # also where every sequence is one row: there the two are the same
        reference = segment_sum(reference.masked_fill(rows.ids < 0, 0.0), rows.cu_seqlens)
    refuse_nan_reference(reference)
    return reference


def linear_preference_loss(
    objective: str | Objective,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    reference: Reference = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    budget_bytes: int | None = None,
    plan: str | None = None,
    backend: str | None = None,
    **data: Any,
) -> PreferenceOutput:
    """A preference loss from hidden states and a linear head, without a ``[T, V]`` matrix.

    Sequence log-probs ``s_k = sum_t log softmax(z(hidden_t @ weight.T + bias))[target_t]`` of packed rows enter the objective; gradients
    reach ``hidden``, ``weight`` and ``bias``. Where policy and reference hold the same numbers every margin is exactly 0.

    Args:
        objective: a name (its hyper-parameters then go into ``data``, for example ``beta=0.1``) or an ``Objective``.
        hidden: ``[T, H]`` rows that predict the completion tokens, packed (see :mod:`fastpref.packing`).
        weight: ``[V, H]``, dtype and device of ``hidden``.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        cu_seqlens: ``[K+1]`` int32 from 0 to T; pairwise objectives take N chosen, then the N rejected of the same pairs.
        bias: ``[V]`` or ``None``.
        reference: ``None``; precomputed sequence ``[K]`` or token ``[T]`` log-probs (or ``TokenLogProbs``); or the reference's ``(hidden, weight[, bias])``,
            run in the same pass without gradients.
        ignore_index: rows with this target count for nothing and get no gradient.
        temperature: of policy and reference, above 0.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        budget_bytes: scratch memory allowed besides inputs and gradients; ``None`` for 64 MiB, or the least that works.
        plan: force ``"D0"`` or ``"D1"``; ``None`` lets :mod:`fastpref.planner` choose.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"`` or ``"triton"``.
        **data: hyper-parameters (with a name) and the ``[K]`` tensors that the objective declares.

    Returns:
        ``PreferenceOutput``; ``.plan`` says how it was run.

    Raises:
        TypeError: an unknown option, a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, an empty sequence, an odd number of sequences, a missing
            or superfluous reference, a budget too small, NaN in the hidden states.

    Example:
        >>> import torch, fastpref
        >>> hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
        >>> out = fastpref.linear_preference_loss(
        ...     "sigmoid", hidden, weight, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 3, 5], dtype=torch.int32),
        ...     reference=(hidden.detach(), weight.detach()), beta=0.1)
        >>> out.loss.item(), out.metrics["rewards/margins"].item()
        (0.6931471824645996, 0.0)
    """
    chosen, tensors = resolve_objective(objective, data)
    operands = check_linear(hidden, weight, bias)
    require_shape("targets", require_tensor("targets", targets), (hidden.shape[0],))
    require_same("targets", targets, "hidden", hidden, dtype=False)
    check_cu_seqlens(cu_seqlens, hidden.shape[0])
    check_reference_presence(chosen, reference is not None)
    transform = make_transform(temperature, softcap, logit_scale)
    head_backend = backends.select(backend, hidden.device, operands.hidden.dtype)
    ids = normalise_targets(targets, weight.shape[0], ignore_index)
    lengths = segment_sum((ids != IGNORED).to(torch.float32), cu_seqlens).long().clamp_min(1)
    rows = PackedTargets(ids, cu_seqlens, lengths)
    for name, value in tensors.items():
        require_shape(name, require_tensor(name, value), tuple(lengths.shape))

    online = _online_reference(reference, operands, targets)
    known = None if online is not None or reference is None else _precomputed(_logps_of(reference), rows)
    chosen.check(SequenceBatch(lengths.to(torch.float64), None, lengths, tensors))
    made_plan = make_plan(
        HeadProblem(
            rows=_count_active(ids),
            vocab=weight.shape[0],
            hidden=hidden.shape[1],
            itemsize=operands.hidden.element_size(),
            pair_rows=_pair_rows(ids, cu_seqlens, chosen),
            coupling=chosen.traits.coupling,
            gradients=operands.requires_grad,
            weight_gradient=operands.weight.requires_grad,
            online_reference=online is not None,
            float16=operands.hidden.dtype == torch.float16,
        ),
        budget_bytes,
        plan,
    )
    tiling = Tiling(made_plan.vocab_chunk, made_plan.row_block)
    dtype = torch.float64 if operands.hidden.dtype == torch.float64 else torch.float32

    if made_plan.design == "D0":
        if online is not None:
            with torch.no_grad():
                tokens = run_recompute(online, ids, transform, tiling, backend, "reference hidden")
                known = segment_sum(tokens.logps, rows.cu_seqlens)
        policy = segment_sum(run_recompute(operands, ids, transform, tiling, backend).logps, rows.cu_seqlens)
        out = evaluate(chosen, SequenceBatch(policy, known, lengths, tensors), dtype, made_plan)
        return PreferenceOutput(out.loss, out.losses.detach(), out.metrics, out.logps, out.ref_logps, made_plan)

    head = Head(operands.weight, operands.bias, transform, head_backend)
    run = run_resident(chosen, head, operands, online, known, rows, tensors, made_plan)
    with torch.no_grad():
        out = evaluate(chosen, SequenceBatch(run.logps, run.ref_logps, lengths, tensors), dtype, made_plan)
    loss = attach_gradients(out.loss, run, head, operands, rows, tiling, backend)
    return PreferenceOutput(loss, out.losses, out.metrics, out.logps, out.ref_logps, made_plan)


def _logps_of(reference: Reference) -> Tensor:
    if isinstance(reference, TokenLogProbs):
        return reference.logps
    return require_tensor("reference", reference)


def _online_reference(reference: Reference, operands: LinearInput, targets: Tensor) -> LinearInput | None:
    """The reference's operands, where it is to be run in the same pass."""
    if not isinstance(reference, (tuple, list)):
        return None
    if len(reference) not in (2, 3):
        raise ValueError(
            f"reference: expected (hidden, weight) or (hidden, weight, bias), found {len(reference)} items"
        )
    hidden, weight, bias = (*reference, None)[:3]
    if not isinstance(hidden, Tensor) or not isinstance(weight, Tensor):
        raise TypeError("reference: expected (hidden, weight[, bias]) as tensors")
    checked = check_linear(hidden.detach(), weight.detach(), None if bias is None else bias.detach(), "reference ")
    require_shape("reference hidden", hidden, (targets.shape[0], "H"))
    require_shape("reference weight", weight, (operands.weight.shape[0], "H"))
    require_same("reference hidden", checked.hidden, "hidden", operands.hidden)
    return checked


def _count_active(ids: Tensor) -> int:
    on_host = ids.device.type == "cpu" and not is_traced(ids)
    return int((ids != IGNORED).sum()) if on_host else ids.shape[0]


def _pair_rows(ids: Tensor, cu_seqlens: Tensor, chosen: Objective) -> list[int]:
    """Rows of each pair (all of them: resident rows are whole sequences), where they are known on the host."""
    if chosen.traits.coupling != "pair" or cu_seqlens.device.type != "cpu" or is_traced(ids, cu_seqlens):
        return []
    first, second = cu_seqlens.diff().chunk(2)
    return (first + second).tolist()
