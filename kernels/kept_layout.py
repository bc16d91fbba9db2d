"""How what is kept of a linear head's logits lies in memory; for every kernel that keeps or reads some. Needs no Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

SLOT = 64
"""Columns of kept exponentials that share a reference; the columns of every tile of logits are a multiple of it."""


class KeptLayout(NamedTuple):
    """How what is kept lies in its buffer: ``values [T, stride]``, then for exponentials their ``references [T, stride / SLOT]`` float32.

    ``dtype`` is that of the values: a 16-bit one for exponentials, float32 for raw logits.
    """

    dtype: torch.dtype
    stride: int

    @property
    def exponentials(self) -> bool:
        """Or raw logits."""
        return self.dtype != torch.float32

    def row_bytes(self) -> int:
        """Bytes per row."""
        return self.stride * self.dtype.itemsize + (self.stride // SLOT * 4 if self.exponentials else 0)

    def views(self, buffer: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
        """``values`` and ``references`` of ``rows`` rows in a flat uint8 buffer."""
        end = rows * self.stride * self.dtype.itemsize
        values = buffer[:end].view(self.dtype).view(rows, self.stride)
        if not self.exponentials:
            return values, None
        return values, buffer[end : rows * self.row_bytes()].view(torch.float32).view(rows, self.stride // SLOT)


def kept_layout(hidden: torch.dtype, weight: torch.dtype, columns: int, softcap: bool) -> KeptLayout:
    """Exponentials where both operands have one 16-bit dtype: their rounding is that of the gradient that is made from them.

    Raw logits for float32 gradients, which deserve better, and under a softcap, whose slope is a function of the logit.
    """
    exponentials = hidden == weight and hidden.itemsize == 2 and not softcap
    return KeptLayout(hidden if exponentials else torch.float32, -(-columns // SLOT) * SLOT)
