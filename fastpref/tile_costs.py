"""Scratch of the tile kernels (``csrc/cpu/head_amx.cpp``) in bytes, as pure functions of shapes; a test holds them to what the kernels take.

``planes`` are the bf16 numbers per element of hidden states and head; everything is padded to blocks of 32 rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

EDGE = 32
LEFT_BYTES, RIGHT_BYTES = 512 << 10, 768 << 10  # of strips that a thread works on at a time
PACKED_BYTES, ALL_PACKED_BYTES = 1 << 20, 32 << 20  # of the head's strips that a thread packs, and that all do
TILE = 1024
SEGMENT, MOST_SEGMENTS = 1024, 64
FIELDS, PLAIN_FIELDS = 7, 2

CHUNK_COLUMNS = 1024
"""A chunk of gradients should stay in the last-level cache."""

FLOPS = 1600e9
PRODUCTS = {1: 1, 2: 4, 3: 5}
"""FLOP/s of the tile kernels beside the nominal bandwidth of a CPU (80 FLOPs in the time of a byte: what keeping logits, or another pass over the head, is
weighed by), and the bf16 products per product of the operands, by the most bf16 numbers in an element of either."""


def padded(n: int) -> int:
    """``n`` rounded up to whole blocks."""
    return -(-n // EDGE) * EDGE


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def _groups(k: int, planes: tuple[int, int]) -> tuple[int, int, bool]:
    """Pairs of left and right strips over ``k`` that go together, ``planes`` those of either, and whether they are cut into panels."""
    k_blocks, most = max(padded(k) // EDGE, 1), 32 if planes == (1, 1) else 16
    several = k_blocks > most
    left, right = (
        max(size // (2 * (most if several else k_blocks) * p * TILE), 1)
        for size, p in zip((LEFT_BYTES, RIGHT_BYTES), planes, strict=True)
    )
    return left, right, several


def _held_bytes(k: int, planes: tuple[int, int]) -> int:
    """Of a thread's sums between panels."""
    left, right, several = _groups(k, planes)
    return 4 * EDGE * EDGE * left * right if several else 0


def statistics_bytes(
    rows: int, vocab: int, hidden: int, planes: tuple[int, int], threads: int, *, all_statistics: bool = False
) -> int:
    """Of the statistics of ``rows`` rows."""
    segment = max(SEGMENT, padded(-(-vocab // MOST_SEGMENTS)))
    left, right, several = _groups(hidden, planes[::-1])
    of_strips = 2 * EDGE * padded(hidden) * planes[1]
    packed = max(min(PACKED_BYTES, ALL_PACKED_BYTES // threads) // of_strips, 1)
    left, right = min(left, segment // EDGE, padded(vocab) // EDGE, packed), min(right, padded(rows) // EDGE)
    parts = (
        2 * padded(rows) * padded(hidden) * planes[0],
        4 * padded(rows),
        4 * -(-vocab // segment) * (FIELDS if all_statistics else PLAIN_FIELDS) * padded(rows),
        threads * left * of_strips,
        4 * EDGE * EDGE * threads * left * right * several,
        4 * (padded(vocab) // EDGE),
        4 * rows,
    )
    return sum(map(_aligned, parts))


def gradient_bytes(
    rows: int,
    vocab: int,
    hidden: int,
    planes: tuple[int, int],
    threads: int,
    chunk: int,
    row_block: int,
    *,
    dx: bool = True,
    dw: bool = True,
    db: bool = False,
) -> int:
    """Of the gradients of ``rows`` rows, ``chunk`` vocabulary columns and ``row_block`` rows at a time."""
    chunk, block = min(padded(chunk), padded(vocab)), min(padded(row_block), padded(rows))
    of_hidden, of_head = (2 * n * padded(hidden) * p for n, p in zip((block, chunk), planes, strict=True))
    of_gradient, held = 2 * block * chunk * max(planes), _held_bytes(hidden, planes[::-1])
    if dw and block == padded(rows):
        held = max(held, _held_bytes(block, (max(planes), planes[0])))
    parts = (
        of_hidden * (1 + dw),
        of_head * (1 + dx),
        of_gradient * (dx + dw),
        (chunk // EDGE) * (block // EDGE),
        4 * padded(rows) * padded(hidden) * dx,
        4 * chunk * padded(hidden) * (dw and block < padded(rows)),
        threads * held,
        4 * chunk * (block // EDGE) * db,
        *[4 * padded(rows)] * 3,
        4 * (padded(vocab) // EDGE),
        4 * rows,
    )
    return sum(map(_aligned, parts))


def kept_bytes(rows: int, vocab: int, planes: tuple[int, int], *, softcap: bool = False) -> int:
    """What is kept of the logits of ``rows`` rows: bf16 exponentials and their references, or the logits in float32."""
    exponentials = planes == (1, 1) and not softcap
    block = 2 * EDGE * EDGE + 4 * EDGE if exponentials else 4 * EDGE * EDGE
    return (padded(vocab) // EDGE) * (padded(rows) // EDGE) * block


class _Operands(NamedTuple):
    planes: tuple[int, int]
    threads: int = 1


class TileCosts(_Operands):
    """Of operands of some planes, on some threads (see :class:`fastpref.engine_costs.EngineCosts`)."""

    edge = EDGE
    chunk_columns = CHUNK_COLUMNS
    logit_bytes = 0  # they stay in the cache
    narrow_products = False

    @property
    def flops(self) -> float:
        """FLOP/s of the products."""
        return FLOPS / PRODUCTS[max(self.planes)]

    def statistics_bytes(self, rows: int, vocab: int, hidden: int, *, all_statistics: bool = False) -> int:
        """See :func:`statistics_bytes`."""
        return statistics_bytes(rows, vocab, hidden, self.planes, self.threads, all_statistics=all_statistics)

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
        """See :func:`gradient_bytes`; a float32 dW takes no more."""
        return gradient_bytes(rows, vocab, hidden, self.planes, self.threads, chunk, row_block, dx=dx, dw=dw, db=db)

    def kept_bytes(self, rows: int, vocab: int, *, softcap: bool = False) -> int:
        """See :func:`kept_bytes`."""
        return kept_bytes(rows, vocab, self.planes, softcap=softcap)
