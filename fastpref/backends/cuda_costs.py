"""Scratch of :class:`fastpref.backends.cuda_head.CudaHead` in bytes, as pure functions of shapes; a test holds it to what runs take."""

from __future__ import annotations

from fastpref.kernels.kept_layout import kept_layout

from .chunked_costs import STRIDE, ChunkedCosts

MOST_SEGMENTS, SEGMENT_STEP = 128, 256
PLAIN_FIELDS, FIELDS = 2, 7


def segment_columns(vocab: int) -> int:
    """Vocabulary columns that one block goes over: whole tiles, and so many that there are at most :data:`MOST_SEGMENTS` segments, enough
    to fill a GPU from one tile of rows. A function of V alone, so that a row's bits do not depend on the rows beside it."""
    return SEGMENT_STEP * -(-vocab // (MOST_SEGMENTS * SEGMENT_STEP))


def segments(vocab: int) -> int:
    """How many there are."""
    return -(-vocab // segment_columns(vocab))


class CudaHeadCosts(ChunkedCosts):
    """Of two operands of one 16-bit dtype (see :class:`fastpref.engine_costs.EngineCosts`)."""

    logit_bytes = 6
    """A logit in float32 and its gradient in 16 bits, which go to memory and back."""

    def statistics_bytes(self, rows: int, vocab: int, hidden: int, *, all_statistics: bool = False) -> int:
        """The parts of every segment of the vocabulary."""
        return 4 * segments(vocab) * rows * (FIELDS if all_statistics else PLAIN_FIELDS)

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
        """A chunk's logits in float32, and the operands of their GEMM where it takes no others, beside what its gradients need."""
        block, chunk = min(row_block, rows), min(chunk, vocab)
        total = super().gradient_bytes(
            rows, vocab, hidden, chunk, row_block, dx=dx, dw=dw, db=db, float32_dw=float32_dw
        )
        casts = 4 * hidden * (rows + chunk) if self.casts else 0
        return total + 4 * block * (-(-chunk // STRIDE) * STRIDE) + casts

    def kept_bytes(self, rows: int, vocab: int, *, softcap: bool = False) -> int:
        """Exponentials and their references, or the logits in float32."""
        return rows * kept_layout(self.hidden, self.weight, vocab, softcap).row_bytes()
