"""Scratch of :mod:`fastpref.backends.chunked_gradients` in bytes, as pure functions of shapes; a test holds it to what runs take."""

from __future__ import annotations

from typing import NamedTuple

import torch

STRIDE = 64
"""Columns that a row of a chunk's gradients is padded to: 16-byte accesses whatever the chunk."""

ROW_BYTES = 64
"""Per row: its coefficients, scaled, and their common factor."""

SMALLEST_ROW_TILE = 64
"""Rows of the smallest tile of any kernel that sums columns."""


class Operands(NamedTuple):
    """What everything follows from: the two dtypes, and whether 16-bit operands are cast to float32 for logits that torch's GEMM makes."""

    hidden: torch.dtype
    weight: torch.dtype
    casts: bool = False


class ChunkedCosts(Operands):
    """The part of :class:`fastpref.engine_costs.EngineCosts` that engines with :func:`chunked_gradients` share."""

    edge = 1
    chunk_columns = 4096
    flops = None
    narrow_products = True

    @property
    def operand(self) -> torch.dtype:
        """Of the gradient GEMMs."""
        return torch.promote_types(self.hidden, self.weight)

    def gradient_bytes(
        self,
        rows: int,
        vocab: int,
        hidden: int,
        chunk: int,
        row_block: int,
        *,
        dx: bool = True,
        dw: bool = True,
        db: bool = False,
        float32_dw: bool = False,
    ) -> int:
        """A chunk's gradients, the scaled hidden states, sums in float32 and products on their way there."""
        block, chunk = min(row_block, rows), min(chunk, vocab)
        narrow, item = self.operand.itemsize == 2, self.operand.itemsize
        total = block * (-(-chunk // STRIDE) * STRIDE) * item + rows * ROW_BYTES
        if dx:
            total += rows * hidden * 4 if self.hidden.itemsize == 2 else 0
            total += block * hidden * item if narrow else chunk * hidden * 4 * (self.weight.itemsize == 2)
        if dw:
            total += rows * hidden * item
            staged = self.stages_dw(rows, row_block, float32_dw)
            total += chunk * hidden * 4 if staged else 0
            total += chunk * hidden * item if narrow and (staged or float32_dw) else 0
        if db:
            total += (-(-block // SMALLEST_ROW_TILE) + 3) * chunk * 4
        return total

    def stages_dw(self, rows: int, row_block: int, float32_dw: bool) -> bool:
        """Whether a chunk of dW is summed in float32 before it is rounded, or scaled, into place."""
        rounded = self.weight.itemsize == 2 and not float32_dw
        return self.operand == torch.float16 or (rounded and (row_block < rows or self.operand == torch.float32))
