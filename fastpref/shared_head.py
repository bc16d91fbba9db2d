"""A reference that has the policy's own head (an adapter's base model, two hidden states under one frozen head): what need not be done twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import is_traced
from .resident import ReferenceSource
from .token_logprobs import LinearInput, active_rows, compact


def reference_source(
    operands: LinearInput,
    online: LinearInput | None,
    known: Tensor | None,
    given: object,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
) -> ReferenceSource:
    """Where the reference's log-probs come from, with the least work that it takes.

    On the CPU, a reference with the policy's head joins its sweep; and one with its hidden states too (a policy before its first step) is
    not run at all, which also makes its log-probs the same bits whatever the GEMM does with rows in different places. On a GPU the rows
    may not be looked at, and both run GEMMs of the same shapes one after the other.

    Args:
        operands: the policy's.
        online: the reference's, validated, or ``None``.
        known: given log-probs of the reference, or ``None``.
        given: what the caller gave as reference.
        weight: what the caller gave as ``weight``, before any cast.
        bias: what the caller gave as ``bias``.
        ids: ``[T]`` normalised targets.
    """
    if online is None or not isinstance(given, Sequence) or not _same_head(given, weight, bias, ids):
        return ReferenceSource(known, online)
    if online.hidden.dtype != operands.hidden.dtype:  # no matrix holds the rows of both
        return ReferenceSource(online=online)
    shared = LinearInput(online.hidden, operands.weight.detach(), None if bias is None else online.bias)
    rows = active_rows(ids)
    if torch.equal(*compact(rows, operands.hidden.detach(), online.hidden)):
        return ReferenceSource(is_policy=True)
    return ReferenceSource(online=shared, shared=True)


def _same_head(given: Sequence[Tensor | None], weight: Tensor, bias: Tensor | None, ids: Tensor) -> bool:
    """Whether the reference's weight and bias are the policy's own storage."""
    if ids.device.type != "cpu" or is_traced(ids, weight):
        return False
    other_weight, other_bias = (*given, None)[1:3]
    return _same_tensor(weight, other_weight) and _same_tensor(bias, other_bias)


def _same_tensor(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    same_form = a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    return same_form and a.data_ptr() == b.data_ptr()
