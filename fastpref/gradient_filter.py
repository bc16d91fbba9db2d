"""Which vocabulary blocks of a gradient are worth a GEMM (after Wijmans et al., arXiv 2411.09009).

The gradient of a logit is ``softmax_coef * p * dz/dx`` away from the target. A block of :data:`BLOCK` columns in which no row of a group of
:data:`ROWS` rows has a probability of at least ``threshold``, and that holds none of their targets, is left out of dX and dW: each entry of the
logits' gradient that is dropped is below ``threshold * |softmax_coef| * dz/dx``. The log-probs, the loss and the bias gradient are exact.

Reads the chunk's logits once more. Where values may not be looked at without waiting (a GPU) this waits once per chunk and group of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .backends.base import LogitTransform
from .backends.eager import apply_transform

BLOCK = 128
"""Columns that are kept or left out together."""

ROWS = 128
"""Rows that are looked at together: more rows agree on fewer blocks, fewer rows make thinner GEMMs."""

Piece = tuple[slice, Tensor | None]
"""Rows, and the columns of the chunk that their GEMMs take (``None``: all)."""


def largest_probabilities(logits: Tensor, lse: Tensor, transform: LogitTransform) -> Tensor:
    """``[rows, blocks]`` the largest ``softmax`` of each block of columns; the transform rises with the logit, so one look per block is enough."""
    columns = logits.shape[1]
    whole = columns // BLOCK * BLOCK
    parts = []
    if whole:
        parts.append(logits[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1))
    if whole < columns:
        parts.append(logits[:, whole:].amax(-1, keepdim=True))
    return torch.exp(apply_transform(torch.cat(parts, 1), transform) - lse[:, None])


@dataclass(frozen=True)
class GradientFilter:
    """What the choice is made from.

    Attributes:
        threshold: in (0, 1).
        targets: ``[T]`` normalised.
        lse: ``[T]``.
        transform: of the logits.
    """

    threshold: float
    targets: Tensor
    lse: Tensor
    transform: LogitTransform

    def pieces(self, logits: Tensor, columns: tuple[int, int], block: slice) -> list[Piece]:
        """The rows and columns that the GEMMs of one chunk ``logits [block, columns]`` take; groups of rows with nothing to take are left out."""
        probabilities = largest_probabilities(logits, self.lse[block], self.transform)
        found: list[Piece] = []
        for start in range(0, logits.shape[0], ROWS):
            rows = slice(start, min(start + ROWS, logits.shape[0]))
            piece = slice(block.start + rows.start, block.start + rows.stop)
            kept = self._columns(probabilities[rows], self.targets[piece], columns)
            if kept is None and found and found[-1][1] is None and found[-1][0].stop == piece.start:
                found[-1] = (slice(found[-1][0].start, piece.stop), None)  # one GEMM for groups that keep everything
            elif kept is None or kept.numel():
                found.append((piece, kept))
        return found

    def _columns(self, probabilities: Tensor, targets: Tensor, columns: tuple[int, int]) -> Tensor | None:
        """The columns that one group of rows keeps, or ``None`` for all."""
        first, last = columns
        # Not "at least the threshold": a NaN is kept, so that it reaches the gradient. Ignored rows may hold anything and have none.
        wanted = (~(probabilities < self.threshold) & (targets >= 0)[:, None]).any(0)
        here = (targets >= first) & (targets < last)
        at = torch.where(here, (targets - first) // BLOCK, torch.zeros_like(targets))
        wanted |= torch.zeros_like(wanted, dtype=torch.int32).index_add_(0, at, here.int()) > 0
        blocks = wanted.nonzero().squeeze(1)
        if blocks.numel() == wanted.numel():
            return None
        each = (blocks[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)).flatten()
        return each[each < last - first]
