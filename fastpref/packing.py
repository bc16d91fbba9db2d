"""Packed rows: completions end to end without padding, with ``cu_seqlens [K+1]`` (int32) marking where each begins.

The row of a token is the position whose hidden state predicts it: the last prompt token's row predicts the first completion token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._checks import require_shape, require_tensor


@dataclass(frozen=True)
class PackedRows:
    """Completion rows ready for the head.

    Attributes:
        hidden: ``[T, H]``.
        targets: ``[T]`` int64.
        cu_seqlens: ``[K+1]`` int32.
    """

    hidden: Tensor
    targets: Tensor
    cu_seqlens: Tensor


def cu_seqlens_from_lengths(lengths: Tensor) -> Tensor:
    """``[K]`` lengths to ``[K+1]`` int32 boundaries on the same device."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: K numbers cost nothing, and margins are small differences of large sums."""
    return torch.float32 if device.type == "mps" else torch.float64


def segment_sum(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """``[T]`` row values to ``[K]`` sums per sequence, in :func:`wide_dtype`. Deterministic, differentiable.

    Args:
        values: ``[T]``.
        cu_seqlens: ``[K+1]``; it may live on the host.
    """
    offsets = cu_seqlens.to(values.device, torch.int64)
    return torch.segment_reduce(values.to(wide_dtype(values.device)), "sum", offsets=offsets, initial=0)


def pack_padded(hidden: Tensor, labels: Tensor, *, ignore_index: int = -100) -> PackedRows:
    """A padded batch with labels aligned to input tokens (the convention of transformers and TRL) to packed rows.

    Row ``(b, t)`` predicts ``labels[b, t + 1]``; rows whose label is ``ignore_index`` (prompt, padding) are dropped and never reach the head.

    Args:
        hidden: ``[B, L, H]`` last hidden states.
        labels: ``[B, L]`` int64, ``ignore_index`` outside the completion.
        ignore_index: the label of a position without a target.

    Raises:
        ValueError: shapes disagree, or a sequence of the batch has no completion token.
    """
    require_tensor("hidden", hidden)
    require_tensor("labels", labels)
    require_shape("hidden", hidden, ("B", "L", "H"))
    require_shape("labels", labels, tuple(hidden.shape[:2]))
    shifted = labels[:, 1:]
    keep = shifted != ignore_index
    lengths = keep.sum(dim=1)
    if bool((lengths == 0).any()):
        raise ValueError(f"labels: sequence {int((lengths == 0).nonzero()[0])} of the batch has no completion token")
    return PackedRows(hidden[:, :-1][keep], shifted[keep], cu_seqlens_from_lengths(lengths))
