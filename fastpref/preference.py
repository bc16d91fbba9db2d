"""All three stages: a preference loss from log-probs, or from hidden states in one pass where the plan allows.

:func:`linear_preference_loss` runs plans D0 and D3 (token log-probs, objective, recomputing backward) for any objective, and plans D1 and D2
(gradients formed in the forward call) where the objective separates by unit: pair, sequence or prompt. The loss value comes from the
same numbers through the same code in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

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
from .arguments import (
    ObjectiveLike,
    check_reference_form,
    check_reference_presence,
    checked_data,
    checked_lengths,
    checked_state,
    named_data,
    refuse_nan_policy,
    refuse_nan_reference,
    resolve_objective,
)
from .backends.base import IGNORED, Direction, accumulation_dtype
from .call import Call
from .divergence import TokenKL, check_reference, run_recompute_kl
from .linear_head import Head, Tiling
from .objectives.base import Objective
from .objectives.batch import SequenceBatch
from .packing import wide_dtype
from .planner import Plan, make_plan
from .resident import ReferenceSource, attach_gradients, run_resident
from .shared_head import reference_source
from .token_logprobs import (
    TokenLogProbs,
    check_gradient_filter,
    check_linear,
    check_main_grad,
    engine_costs,
    head_problem,
    make_transform,
    run_recompute,
)
from .unscaled import run_unscaled, unit_direction

Reference = Tensor | TokenLogProbs | Sequence[Tensor | None] | None
"""``None``; sequence ``[K]`` or token ``[T]`` log-probs; or the reference's ``(hidden, weight[, bias])``."""

KL_DIRECTIONS: dict[str, Direction] = {"forward_kl": "forward", "reverse_kl": "reverse"}
"""What an objective's ``traits.vocabulary`` calls a divergence -> its direction."""


@dataclass(frozen=True)
class PreferenceOutput:
    """What a preference loss returns.

    Attributes:
        loss: scalar, float32 (float64 for float64 input), the mean over items; the one differentiable field of
            :func:`linear_preference_loss` and :func:`logits_preference_loss`.
        losses: ``[items]`` one loss per item (a pair, a sequence, a prompt), float64; differentiable only from :func:`preference_loss`.
        metrics: detached scalars under TRL's names (``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ...).
        logps: ``[K]`` detached sequence log-probs of the policy, float64.
        ref_logps: ``[K]`` detached, of the reference, or ``None``.
        state: the objective's state after this call, to be given to the next as ``state=``; empty for most.
        plan: how the head was run; ``None`` from :func:`preference_loss` and :func:`logits_preference_loss`.
    """

    loss: Tensor
    losses: Tensor
    metrics: Mapping[str, Tensor]
    logps: Tensor
    ref_logps: Tensor | None
    state: dict[str, Tensor]
    plan: Plan | None = None


def evaluate(chosen: Objective, batch: SequenceBatch, dtype: torch.dtype, plan: Plan | None = None) -> PreferenceOutput:
    """Stage 2 on the batch of a whole call, whose ``state`` is the one before it; ``loss`` in ``dtype``."""
    with torch.no_grad():
        state = chosen.next_state(batch)
    batch = replace(batch, state=state)
    losses = chosen.losses(batch)
    return PreferenceOutput(
        loss=losses.mean().to(dtype),
        losses=losses,
        metrics=chosen.metrics(batch),
        logps=batch.policy.detach(),
        ref_logps=None if batch.reference is None else batch.reference.detach(),
        state=state,
        plan=plan,
    )


def preference_loss(
    objective: ObjectiveLike,
    policy: Tensor | TokenLogProbs | TokenKL,
    reference: Tensor | TokenLogProbs | None = None,
    *,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    token_weights: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
    **data: Any,
) -> PreferenceOutput:
    """A preference loss from log-probabilities, per sequence or per token.

    Args:
        objective: a name (hyper-parameters then go into ``data``, for example ``beta=0.1``), a list of names (a mixture, with
            ``loss_weights``), an ``Objective``, or a function ``(policy, reference, **data) -> losses`` of sequence log-probs.
        policy: ``[K]`` token sums of log-probs; pairwise objectives take N chosen, then the N rejected of the same pairs. With
            ``cu_seqlens`` ``[T]`` token log-probs, or what :func:`fastpref.linear_logprobs` or :func:`fastpref.linear_token_kl` returned.
        reference: ``[K]`` or ``[T]`` the same under the reference, or ``None`` where the objective allows it. No gradient flows to it.
        lengths: ``[K]`` completion tokens, where ``policy`` is ``[K]``; needed by objectives that take token means.
        cu_seqlens: ``[K+1]`` int32 from 0 to T.
        mask: ``[T]`` bool, ``False`` on rows that count for nothing, whatever they hold; ``None``: all count.
        token_weights: ``[T]`` weights in the sequence sums of policy and reference.
        state: what the last call returned as ``state``, for objectives that carry one; ``None`` to begin.
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
    chosen, rest = resolve_objective(objective, data)
    given = named_data(chosen, rest)
    kl, sum_sq = None, None
    if isinstance(policy, TokenKL):
        kl, reference, policy = policy.kl, policy.ref_logps if reference is None else reference, policy.logps
    elif isinstance(policy, TokenLogProbs):
        sum_sq, policy = policy.log_sum_sq_probs, policy.logps
    if isinstance(reference, TokenLogProbs):
        reference = reference.logps
    require_floating("policy", require_tensor("policy", policy))
    require_shape("policy", policy, ("K",) if cu_seqlens is None else ("T",))
    check_reference_presence(chosen, reference is not None)
    if reference is not None:
        reference = require_tensor("reference", reference).detach()
    dtype = torch.float64 if policy.dtype == torch.float64 else torch.float32
    before = checked_state(chosen, state)
    if cu_seqlens is not None:
        if lengths is not None:
            raise ValueError("lengths: come from cu_seqlens and mask; expected None, found a tensor")
        batch = _token_batch(chosen, policy, reference, cu_seqlens, mask, token_weights, kl, sum_sq, given, before)
    else:
        for name, value in (("mask", mask), ("token_weights", token_weights)):
            if value is not None:
                raise ValueError(f"{name}: goes with token log-probs; give policy [T] with cu_seqlens")
        batch = _sequence_batch(chosen, policy, reference, lengths, given, before)
    chosen.check(batch)
    return evaluate(chosen, batch, dtype)


def _sequence_batch(
    chosen: Objective,
    policy: Tensor,
    reference: Tensor | None,
    lengths: Tensor | None,
    given: dict[str, Tensor],
    state: dict[str, Tensor],
) -> SequenceBatch:
    """The batch of sequence sums ``[K]``."""
    if chosen.traits.level == "token" or chosen.traits.vocabulary:
        what = "token log-probs" if chosen.traits.level == "token" else ", ".join(chosen.traits.vocabulary)
        raise ValueError(f"{chosen.name}: needs {what}; expected policy [T] with cu_seqlens, found sequence sums [K]")
    if reference is not None:
        require_floating("reference", reference)
        require_shape("reference", reference, tuple(policy.shape))
        require_same("reference", reference, "policy", policy, dtype=False)
        refuse_nan_reference(reference)
    if lengths is None:
        if chosen.traits.needs_lengths:
            raise ValueError(f"{chosen.name}: needs lengths, found None")
        lengths = torch.ones(policy.shape, dtype=torch.int64, device=policy.device)
    lengths = checked_lengths(lengths, policy)
    refuse_nan_policy(policy)
    if chosen.weights_tokens:
        raise ValueError(f"{chosen.name}: weights tokens; expected policy [T] with cu_seqlens, found sequence sums [K]")
    wide = wide_dtype(policy.device)
    return SequenceBatch(
        policy.to(wide),
        None if reference is None else reference.to(wide),
        lengths,
        checked_data(given, policy, policy.shape[0], None),
        state=state,
    )


def _token_batch(
    chosen: Objective,
    policy: Tensor,
    reference: Tensor | None,
    cu_seqlens: Tensor,
    mask: Tensor | None,
    token_weights: Tensor | None,
    kl: Tensor | None,
    sum_sq: Tensor | None,
    given: dict[str, Tensor],
    state: dict[str, Tensor],
) -> SequenceBatch:
    """The batch of token log-probs ``[T]``."""
    check_cu_seqlens(cu_seqlens, policy.shape[0])
    if mask is None:
        mask = torch.ones(policy.shape, dtype=torch.bool, device=policy.device)
    require_shape("mask", require_tensor("mask", mask), tuple(policy.shape))
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected dtype torch.bool, found {mask.dtype}")
    require_same("mask", mask, "policy", policy, dtype=False)
    refuse_nan_policy(policy, mask)
    call = checked_call(chosen, cu_seqlens, mask, token_weights, given, state)
    if reference is not None:
        reference = masked_reference(chosen, reference, call)
    needs = set(chosen.traits.vocabulary)
    if "log_sum_sq_probs" in needs and sum_sq is None:
        raise ValueError(
            f"{chosen.name}: needs log_sum_sq_probs; give policy as linear_logprobs(..., stats=('log_sum_sq_probs',)) returned it"
        )
    if needs & set(KL_DIRECTIONS) and kl is None:
        raise ValueError(f"{chosen.name}: needs the KL over the vocabulary; give policy as linear_token_kl returned it")
    return call.batch(
        policy.masked_fill(~mask, 0.0),
        reference,
        kl=None if kl is None or not needs & set(KL_DIRECTIONS) else kl.masked_fill(~mask, 0.0),
        log_sum_sq_probs=None if sum_sq is None else sum_sq.masked_fill(~mask, 0.0),
    )


def checked_call(
    chosen: Objective,
    cu_seqlens: Tensor,
    active: Tensor,
    token_weights: Tensor | None,
    given: dict[str, Tensor],
    state: dict[str, Tensor],
) -> Call:
    """The rows of a call and the data that came with them, checked."""
    if token_weights is not None:
        require_floating("token_weights", require_tensor("token_weights", token_weights))
        require_shape("token_weights", token_weights, tuple(active.shape))
        require_same("token_weights", token_weights, "the rows", active, dtype=False)
        if chosen.traits.level == "token":
            raise ValueError(
                f"token_weights: weight the tokens of sequence sums; {chosen.name} works on tokens (give advantages [T])"
            )
        if "old_logps" in given:
            raise ValueError("token_weights: sums of old_logps would not have them; expected None with old_logps")
        token_weights = token_weights.detach().masked_fill(~active, 0.0)
        if not is_traced(token_weights) and may_synchronise(active.device) and not bool(token_weights.isfinite().all()):
            row = int((~token_weights.isfinite()).nonzero()[0])
            raise ValueError(f"token_weights: expected finite numbers, found {token_weights[row].item()} at row {row}")
    data = checked_data(given, active, cu_seqlens.shape[0] - 1, active)
    return Call.of(chosen, cu_seqlens, active, token_weights, data, state)


def masked_reference(chosen: Objective, reference: Tensor, call: Call) -> Tensor:
    """A precomputed reference, 0 on ignored rows, whatever it holds there."""
    reference = reference.detach()
    if reference.shape == call.active.shape and reference.device == call.active.device:
        reference = reference.masked_fill(~call.active, 0.0)
    check_reference_form(chosen, reference, call)
    return reference


@overload
def linear_preference_loss(
    objective: ObjectiveLike, hidden: Tensor, weight: Tensor, targets: Tensor, cu_seqlens: Tensor, *,
    explain: Literal[True], **options: Any,
) -> Plan: ...  # fmt: skip
@overload
def linear_preference_loss(
    objective: ObjectiveLike, hidden: Tensor, weight: Tensor, targets: Tensor, cu_seqlens: Tensor, *,
    explain: Literal[False] = False, **options: Any,
) -> PreferenceOutput: ...  # fmt: skip
def linear_preference_loss(
    objective: ObjectiveLike,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    reference: Reference = None,
    token_weights: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    budget_bytes: int | None = None,
    plan: str | None = None,
    backend: str | None = None,
    gradient_filter: float | None = None,
    main_grad: Tensor | None = None,
    explain: bool = False,
    **data: Any,
) -> PreferenceOutput | Plan:
    """A preference loss from hidden states and a linear head, without a ``[T, V]`` matrix.

    Token log-probs ``log softmax(z(hidden_t @ weight.T + bias))[target_t]`` of packed rows enter the objective, or their
    sums per sequence; gradients reach ``hidden``, ``weight`` and ``bias``. Where policy and reference hold the same numbers every margin is exactly 0.

    Args:
        objective: a name (its hyper-parameters then go into ``data``, for example ``beta=0.1``), a list of names (a mixture, with
            ``loss_weights``), an ``Objective``, or a function ``(policy, reference, **data) -> losses`` of sequence log-probs.
        hidden: ``[T, H]`` rows that predict the completion tokens, packed (see :mod:`fastpref.packing`).
        weight: ``[V, H]``, on the device of ``hidden``; dtypes go together as in :func:`fastpref.linear_logprobs`.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        cu_seqlens: ``[K+1]`` int32 from 0 to T; pairwise objectives take N chosen, then the N rejected of the same pairs.
        bias: ``[V]`` or ``None``.
        reference: ``None``; precomputed sequence ``[K]`` or token ``[T]`` log-probs (or ``TokenLogProbs``); or the reference's ``(hidden, weight[, bias])``,
            run in the same pass without gradients; on the CPU in the same sweep where ``weight`` and ``bias`` are the policy's own tensors.
        token_weights: ``[T]`` weights in the sequence sums of policy and reference, or ``None`` for 1.
        state: what the last call returned as ``state``, for objectives that carry one; ``None`` to begin.
        ignore_index: rows with this target count for nothing and get no gradient.
        temperature: of policy and reference, above 0; a number, or ``[T]``, one for each row (what it holds on ignored rows does not matter). It gets
            no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        budget_bytes: scratch memory allowed besides inputs and gradients; ``None`` for 64 MiB, or the least that works. Plan D3 holds up to
            that much until backward, the other plans nothing.
        plan: force ``"D0"`` to ``"D3"``; ``None`` lets :mod:`fastpref.planner` choose.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.
        gradient_filter: see :func:`fastpref.linear_logprobs`; not for objectives that need the KL over the vocabulary.
        main_grad: ``[V, H]`` float32 buffer that backward adds dW to, see :func:`fastpref.linear_logprobs`; not with a KL over the vocabulary. Plans D1 and D2 keep dW in float32
            for it until the upstream gradient is known, which counts against ``budget_bytes``.
        explain: return the ``Plan`` (predicted FLOPs, bytes, peak memory; every other plan and why it was not taken) and run nothing.
        **data: hyper-parameters (with a name) and the tensors that the objective declares; they may require gradients where they are learnt
            (``values``).

    Returns:
        ``PreferenceOutput``; ``.plan`` says how it was run. With ``explain`` the :class:`fastpref.planner.Plan` alone.

    Raises:
        TypeError: an unknown option, a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, an empty sequence, an odd number of sequences, a missing
            or superfluous reference, a budget too small, a plan that is not valid here, NaN in the hidden states.

    Example:
        >>> import torch, fastpref
        >>> hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
        >>> out = fastpref.linear_preference_loss(
        ...     "sigmoid", hidden, weight, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 3, 5], dtype=torch.int32),
        ...     reference=(hidden.detach(), weight.detach()), beta=0.1)
        >>> out.loss.item(), out.metrics["rewards/margins"].item()
        (0.6931471824645996, 0.0)
    """
    chosen, rest = resolve_objective(objective, data)
    given = named_data(chosen, rest)
    operands = check_linear(hidden, weight, bias)
    require_shape("targets", require_tensor("targets", targets), (hidden.shape[0],))
    require_same("targets", targets, "hidden", hidden, dtype=False)
    check_cu_seqlens(cu_seqlens, hidden.shape[0])
    check_reference_presence(chosen, reference is not None)
    head_backend = backends.select(backend, hidden.device, accumulation_dtype(operands.hidden.dtype))
    threshold, main_grad = check_gradient_filter(gradient_filter), check_main_grad(main_grad, operands.weight)
    ids = normalise_targets(targets, weight.shape[0], ignore_index)
    transform = make_transform(temperature, softcap, logit_scale, targets, ids, operands.hidden)
    call = checked_call(chosen, cu_seqlens, ids != IGNORED, token_weights, given, checked_state(chosen, state))
    chosen.check(call.without_logps())

    online = check_reference(reference, operands, targets.shape[0]) if isinstance(reference, (tuple, list)) else None
    known = None if online is not None or reference is None else masked_reference(chosen, _logps_of(reference), call)
    direction = next((KL_DIRECTIONS[v] for v in chosen.traits.vocabulary if v in KL_DIRECTIONS), None)
    if direction is not None and online is None:
        raise ValueError(
            f"reference: {chosen.name} needs the distribution over the vocabulary; expected (hidden, weight[, bias]), found log-probs"
        )
    for name, value in (("gradient_filter", threshold), ("main_grad", main_grad)):
        if direction is not None and value is not None:
            raise ValueError(f"{name}: {chosen.name} needs the KL over the vocabulary; expected None, found a value")
    if direction is None:
        source = reference_source(operands, online, known, reference, weight, bias, ids)
    else:
        source = ReferenceSource(online=online)
    online, units = source.online, _units(call)
    known_direction = unit_direction(call, reference is not None) if units and operands.requires_grad else None
    made_plan = make_plan(
        head_problem(
            operands,
            ids,
            transform,
            head_backend,
            threshold,
            main_grad,
            unit_rows=_unit_rows(call, units),
            coupling=chosen.traits.coupling,
            online_reference=online is not None,
            narrow_reference=online is not None and 2 in (online.hidden.element_size(), online.weight.element_size()),
            reference_hidden=0 if online is None else online.hidden.shape[1],
            reference_tiles=None if online is None else engine_costs(online, transform, head_backend),
            shared_head=source.shared,
            divergence=direction is not None,
            known_direction=known_direction is not None,
        ),
        budget_bytes,
        plan,
    )
    if explain:
        return made_plan
    tiling = Tiling(made_plan.vocab_chunk, made_plan.row_block, made_plan.kept_rows)
    dtype = torch.float64 if operands.hidden.dtype == torch.float64 else torch.float32

    if made_plan.design in ("D0", "D3"):
        kl, sum_sq = None, None
        if direction is not None and online is not None:
            both = run_recompute_kl(operands, online, ids, transform, tiling, direction, backend)
            policy, known, kl = both.logps, both.ref_logps, both.kl
        else:
            if online is not None and not source.shared:
                with torch.no_grad():
                    known = run_recompute(online, ids, transform, tiling, backend, "reference hidden")[0].logps
            stacked = online.hidden if online is not None and source.shared else None
            tokens, near = run_recompute(
                operands,
                ids,
                transform,
                tiling,
                backend,
                stats=_statistics(chosen),
                shared=stacked,
                keep=made_plan.design == "D3",
                gradient_filter=threshold,
                main_grad=main_grad,
            )
            policy, sum_sq = tokens.logps, tokens.log_sum_sq_probs
            known = near if stacked is not None else policy.detach() if source.is_policy else known
        out = evaluate(chosen, call.batch(policy, known, kl=kl, log_sum_sq_probs=sum_sq), dtype, made_plan)
        return replace(out, losses=out.losses.detach())

    head = Head(operands.weight, operands.bias, transform, head_backend)
    options = (source, made_plan, threshold, main_grad is not None)
    if made_plan.design == "D2" and known_direction is not None:
        run = run_unscaled(call, ids, units, known_direction, head, operands, *options)
    else:
        run = run_resident(call, ids, units, head, operands, *options)
    out = evaluate(
        chosen, call.batch(run.logps, run.ref_logps, log_sum_sq_probs=run.log_sum_sq_probs), dtype, made_plan
    )
    loss = attach_gradients(out.loss, run, head, operands, ids, tiling, backend, threshold, main_grad)
    return replace(out, loss=loss, losses=out.losses.detach())


def _statistics(chosen: Objective) -> tuple[str, ...]:
    """What the objective needs from the sweep over the vocabulary beside the log-probs."""
    return tuple(v for v in chosen.traits.vocabulary if v not in KL_DIRECTIONS)


def _logps_of(reference: Reference) -> Tensor:
    if isinstance(reference, TokenLogProbs):
        return reference.logps
    return require_tensor("reference", reference)


def _units(call: Call) -> list[list[int]]:
    """The sequences of each unit that the objective couples; empty where that is not known on the host, or is the whole batch."""
    coupling, sequences = call.objective.traits.coupling, call.cu_seqlens.shape[0] - 1
    if call.cu_seqlens.device.type != "cpu" or is_traced(call.cu_seqlens, call.active):
        return []
    if coupling == "sequence":
        return [[k] for k in range(sequences)]
    if coupling == "pair":
        return [[i, sequences // 2 + i] for i in range(sequences // 2)]
    if coupling == "group" and call.data["groups"].device.type == "cpu":
        members: dict[int, list[int]] = {}
        for k, group in enumerate(call.data["groups"].tolist()):
            members.setdefault(group, []).append(k)
        return list(members.values())
    return []


def _unit_rows(call: Call, units: list[list[int]]) -> list[int]:
    """Rows of each unit that reach the head."""
    if not units:
        return []
    counts = (call.counts if call.active.device.type == "cpu" else call.cu_seqlens.diff()).tolist()
    return [sum(counts[k] for k in unit) for unit in units]
