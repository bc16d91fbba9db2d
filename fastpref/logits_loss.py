"""A preference loss from given logits: all three stages in one call.

Where the backend has a stage for it and the objective a head (:mod:`fastpref.staged_loss`), that is two launches, forward and gradient (``cuda``), or
three, where the objective is one of its own (``triton``). Everything else is composed of :func:`fastpref.logprobs`, :func:`fastpref.token_kl` and
:func:`fastpref.preference_loss`, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ._checks import (
    check_cu_seqlens,
    is_traced,
    may_synchronise,
    normalise_targets,
    refuse_forward_mode,
    refuse_nan,
    require_floating,
    require_ignore_index,
    require_same,
    require_shape,
    require_tensor,
)
from ._compile import compiling
from .arguments import (
    ObjectiveLike,
    check_reference_form,
    check_reference_presence,
    checked_state,
    named_data,
    resolve_objective,
)
from .backends.stage import Stage
from .call import Call
from .divergence import TokenKL, token_kl
from .objectives.base import Objective, PairwiseObjective, reward_metrics
from .objectives.batch import SequenceBatch
from .preference import KL_DIRECTIONS, PreferenceOutput, checked_call, masked_reference, preference_loss
from .staged_loss import LateMetrics, StagedLoss, Staging, run_staged, stage_of, staged_data, staging
from .token_logprobs import TokenLogProbs, logprobs, make_transform, refuse_leaf


def logits_preference_loss(
    objective: ObjectiveLike,
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    reference: Tensor | TokenLogProbs | None = None,
    token_weights: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
    ignore_index: int = -100,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    inplace_backward: bool = False,
    backend: str | None = None,
    **data: Any,
) -> PreferenceOutput:
    """A preference loss from the logits of packed rows, without a copy of them.

    Token log-probs ``log softmax(z(logits_t))[target_t]`` enter the objective, or their sums per sequence; the gradient reaches ``logits``. With
    16-bit logits this moves 8 bytes per logit: the policy's are read twice and their gradient written, the reference's read once; 6 with a
    precomputed reference. Where policy and reference hold the same numbers every margin is exactly 0. With hidden states at hand,
    :func:`fastpref.linear_preference_loss` needs no logits at all.

    On the CUDA backend a loss of single pairs, sequences or tokens is two launches, on Triton's three, and metrics are computed when they are first looked
    at (an error if ``targets``, ``cu_seqlens`` or data were overwritten by then); data, token weights and losses that divide by lengths add a few launches over T or K numbers. Losses that look at a whole batch,
    sort, carry a state or learn from data run their formula in PyTorch between the same kernels.

    Args:
        objective: a name (its hyper-parameters then go into ``data``, for example ``beta=0.1``), a list of names (a mixture, with
            ``loss_weights``), an ``Objective``, or a function ``(policy, reference, **data) -> losses`` of sequence log-probs.
        logits: ``[T, V]``, the rows that predict the completion tokens, packed (see :mod:`fastpref.packing`); any floating dtype.
        targets: ``[T]`` int64, in ``[0, V)`` or ``ignore_index``.
        cu_seqlens: ``[K+1]`` int32 from 0 to T; pairwise objectives take N chosen, then the N rejected of the same pairs.
        reference: ``None``; the reference's logits ``[T, V]``; or its log-probs, precomputed: per sequence ``[K]`` or per token ``[T]`` (or
            ``TokenLogProbs``). No gradient flows to it.
        token_weights: ``[T]`` weights in the sequence sums of policy and reference, or ``None`` for 1.
        state: what the last call returned as ``state``, for objectives that carry one; ``None`` to begin.
        ignore_index: rows with this target count for nothing and get no gradient, whatever their logits hold.
        temperature: of policy and reference, above 0; a number, or ``[T]``, one for each row (what it holds on ignored rows does not matter). It gets
            no gradient.
        softcap: Gemma's final logit soft cap, or ``None``.
        logit_scale: factor on the raw logits (Cohere).
        inplace_backward: let backward overwrite ``logits`` with their gradient, see :func:`fastpref.logprobs`; not for objectives that need
            the KL over the vocabulary.
        backend: ``None``/``"auto"``, ``"eager"``, ``"cpu"``, ``"triton"`` or ``"cuda"``.
        **data: hyper-parameters (with a name) and the tensors that the objective declares; they may require gradients where they are learnt
            (``values``).

    Returns:
        ``PreferenceOutput``, whose ``loss`` is the one differentiable field; ``plan`` is ``None``.

    Raises:
        TypeError: an unknown option, a wrong type or dtype.
        ValueError: wrong shapes or devices, a target outside the vocabulary, an empty sequence, an odd number of sequences, a missing
            or superfluous reference, logits in place that are a leaf, a row whose log-probability is NaN.

    Example:
        >>> import torch, fastpref
        >>> logits, targets = torch.randn(5, 11, requires_grad=True), torch.tensor([1, 2, 3, 4, 5])
        >>> out = fastpref.logits_preference_loss(
        ...     "sigmoid", logits, targets, torch.tensor([0, 3, 5], dtype=torch.int32), reference=logits.detach(), beta=0.1)
        >>> out.loss.item(), out.metrics["rewards/margins"].item()
        (0.6931471824645996, 0.0)
    """
    chosen, rest = resolve_objective(objective, data)
    given = named_data(chosen, rest)
    require_floating("logits", require_tensor("logits", logits))
    require_shape("logits", logits, ("T", "V"))
    if logits.shape[1] == 0:
        raise ValueError(f"logits: expected shape [T, V] with V >= 1, found {list(logits.shape)}")
    require_shape("targets", require_tensor("targets", targets), (logits.shape[0],))
    require_same("targets", targets, "logits", logits, dtype=False)
    if targets.dtype != torch.int64:
        raise TypeError(f"targets: expected dtype torch.int64, found {targets.dtype}")
    require_ignore_index(ignore_index)
    check_cu_seqlens(cu_seqlens, logits.shape[0])
    check_reference_presence(chosen, reference is not None)
    if inplace_backward:
        refuse_leaf(logits)
    refuse_forward_mode(logits)
    checked_state(chosen, state)
    if isinstance(reference, TokenLogProbs):
        reference = reference.logps
    near, known = _reference_forms(reference, logits)
    stage = stage_of(backend, logits.device, logits.dtype)
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "softcap": softcap,
        "logit_scale": logit_scale,
        "backend": backend,
    }

    # torch.compile takes the formula from PyTorch's operators, which it fuses: it cannot trace how a head is found. A stage runs on memory.
    traced = compiling() or is_traced(logits, targets)
    plan = None if stage is None or traced else staging(chosen, stage, given, token_weights is not None)
    if stage is not None and plan is not None and (near is None or near.dtype == logits.dtype):
        rows = _Rows(chosen, targets, cu_seqlens, ignore_index, token_weights, given, known)
        found = _staged(
            plan, stage, rows, logits, near, known, temperature, inplace_backward, ignore_index, softcap, logit_scale
        )
        if found is not None:
            return found

    if any(v in KL_DIRECTIONS for v in chosen.traits.vocabulary):
        if inplace_backward:
            raise ValueError(
                f"inplace_backward: {chosen.name} needs the KL over the vocabulary; expected False, found True"
            )
        if near is None:
            raise ValueError(
                f"reference: {chosen.name} needs the distribution over the vocabulary; expected logits [T, V], found log-probs"
            )
        if near.dtype != logits.dtype:
            raise TypeError(
                f"reference: {chosen.name} needs both distributions at once; expected dtype {logits.dtype} like logits, found {near.dtype}"
            )
        way = next(KL_DIRECTIONS[v] for v in chosen.traits.vocabulary if v in KL_DIRECTIONS)
        policy: TokenLogProbs | TokenKL = token_kl(
            logits, near, targets, direction=way, temperature=temperature, **options
        )
    else:
        policy = logprobs(
            logits,
            targets,
            temperature=temperature,
            stats=tuple(v for v in chosen.traits.vocabulary if v not in KL_DIRECTIONS),
            inplace_backward=inplace_backward,
            **options,
        )
        if near is not None:
            known = logprobs(near, targets, temperature=temperature, **options).logps
    out = preference_loss(
        chosen,
        policy,
        known,
        cu_seqlens=cu_seqlens,
        mask=targets != ignore_index,
        token_weights=token_weights,
        state=state,
        **given,
    )
    return replace(out, losses=out.losses.detach())


def _reference_forms(reference: Tensor | None, logits: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """``(logits [T, V], log-probs)`` of the reference, of which at most one is given."""
    if reference is None:
        return None, None
    require_floating("reference", require_tensor("reference", reference))
    require_same("reference", reference, "logits", logits, dtype=False)
    if reference.dim() == 1:
        return None, reference.detach()
    if reference.shape != logits.shape:
        raise ValueError(
            f"reference: expected logits {list(logits.shape)} or log-probs [K] or [{logits.shape[0]}], found {list(reference.shape)}"
        )
    return reference.detach(), None


@dataclass
class _Rows:
    """The rows of a call, and what came with them, not yet looked at."""

    chosen: Objective
    targets: Tensor
    cu_seqlens: Tensor
    ignore_index: int
    token_weights: Tensor | None
    given: dict[str, Tensor]
    reference: Tensor | None = None
    """Log-probs that were precomputed, as the caller has them."""

    def __post_init__(self) -> None:
        self._versions = self._found_versions()

    def _found_versions(self) -> dict[str, int]:
        named = {
            "targets": self.targets,
            "cu_seqlens": self.cu_seqlens,
            "token_weights": self.token_weights,
            "reference": self.reference,
            **self.given,
        }
        return {
            name: tensor._version
            for name, tensor in named.items()
            if isinstance(tensor, Tensor) and not tensor.is_inference()
        }

    def check_unchanged(self) -> None:
        """What is computed late must see what the call saw."""
        found = self._found_versions()
        changed = [name for name, version in self._versions.items() if found[name] != version]
        if changed:
            raise _changed_since(changed)

    @cached_property
    def call(self) -> Call:
        """Checked. This runs on the device."""
        active = self.targets != self.ignore_index
        return checked_call(self.chosen, self.cu_seqlens, active, self.token_weights, self.given, {})

    @property
    def empty(self) -> Call:
        """Shapes alone, at no cost."""
        rows = torch.empty_like(self.targets, dtype=torch.bool)
        return Call(self.chosen, self.cu_seqlens, rows, None, {}, {})

    def check_shapes(self) -> None:
        """The objective's check where no value may be looked at, without data."""
        nothing = torch.empty(self.cu_seqlens.shape[0] - 1, dtype=torch.float64, device="meta")
        self.chosen.check(SequenceBatch(nothing, None, nothing))


def _staged(
    plan: Staging,
    stage: Stage,
    rows: _Rows,
    logits: Tensor,
    near: Tensor | None,
    known: Tensor | None,
    temperature: float | Tensor,
    inplace_backward: bool,
    ignore_index: int,
    softcap: float | None,
    logit_scale: float,
) -> PreferenceOutput | None:
    """The stage's launches; ``None`` where the data's shapes are not the head's."""
    chosen, targets = rows.chosen, rows.targets
    looks = may_synchronise(logits.device)
    asked = bool(rows.given) or rows.token_weights is not None or chosen.weights_tokens
    needed = asked or plan.number is not None or plan.kind == "token" or (looks and known is not None)
    call = rows.call if needed else None
    if call is None:
        rows.check_shapes()
        data: list[Tensor | None] | None = [None] * len(plan.data)
    else:
        chosen.check(call.without_logps())
        data = staged_data(plan, call)
    if data is None:
        return None
    if known is not None:
        if call is None:
            check_reference_form(chosen, known, rows.empty)
        else:
            known = masked_reference(chosen, known, call)
    by_row, checks = isinstance(temperature, Tensor), looks and not stage.refuses_rows
    ids = normalise_targets(targets, logits.shape[1], ignore_index) if checks or by_row else targets
    found = run_staged(
        plan,
        stage,
        logits,
        near,
        known,
        targets,
        rows.cu_seqlens,
        make_transform(temperature, softcap, logit_scale, targets, ids, logits),
        call=call,
        data=data,
        ignore_index=ignore_index,
        inplace_backward=inplace_backward,
    )
    if checks:
        refuse_nan(found.logps, ids, "logits")
        if near is not None:
            refuse_nan(found.ref_logps, ids, "reference")
    reference = known if near is None else found.ref_logps
    if type(chosen).metrics is PairwiseObjective.metrics and found.rewards.numel():
        compute: Callable[[], Mapping[str, Tensor]] = partial(
            _reward_metrics, found, 0 if found.sums.is_inference() else found.sums._version
        )
    else:
        compute = partial(_metrics, rows, found.logps, reference)
    return PreferenceOutput(
        loss=found.loss,
        losses=found.losses,
        metrics=LateMetrics(compute),
        logps=found.sums[0],
        ref_logps=None if reference is None else found.sums[1],
        state={},
    )


def _changed_since(names: Sequence[str]) -> RuntimeError:
    return RuntimeError(
        f"metrics: {', '.join(names)} changed in place since the call; read the metrics before, or give the call a copy"
    )


def _reward_metrics(found: StagedLoss, version: int) -> Mapping[str, Tensor]:
    """Those of pairs, from what the stage left; ``version`` is that of its sums then, which the output shows as ``logps``."""
    if not found.sums.is_inference() and found.sums._version != version:
        raise _changed_since(["logps"])
    return reward_metrics(found.rewards, found.sums[0], found.margins)


def _metrics(rows: _Rows, logps: Tensor, reference: Tensor | None) -> Mapping[str, Tensor]:
    """The objective's, from token log-probs."""
    rows.check_unchanged()
    if reference is not None and reference.shape == logps.shape:
        reference = reference.masked_fill(~rows.call.active, 0.0)
    return rows.chosen.metrics(rows.call.batch(logps, reference))
