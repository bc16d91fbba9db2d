"""Scratch of :class:`fastpref.backends.triton_head.TritonHead` in bytes, as pure functions of shapes; a test holds it to what runs take."""

from __future__ import annotations

from fastpref.kernels.kept_layout import kept_layout
from fastpref.kernels.linear_tiling import segment_columns

from .chunked_costs import ChunkedCosts

PLAIN_FIELDS, FIELDS = 2, 7


class TritonHeadCosts(ChunkedCosts):
    """Of operands of two dtypes (see :class:`fastpref.engine_costs.EngineCosts`)."""

    @property
    def logit_bytes(self) -> int:
        """A gradient in the operands' dtype."""
        return self.operand.itemsize

    def statistics_bytes(self, rows: int, vocab: int, hidden: int, *, all_statistics: bool = False) -> int:
        """The partials of every segment of the vocabulary."""
        segments = -(-vocab // segment_columns(vocab))
        return 4 * segments * rows * (FIELDS if all_statistics else PLAIN_FIELDS)

    def kept_bytes(self, rows: int, vocab: int, *, softcap: bool = False) -> int:
        """Exponentials and their references, or the logits in float32."""
        return rows * kept_layout(self.hidden, self.weight, vocab, softcap).row_bytes()
