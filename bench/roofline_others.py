"""The other ways to a DPO step's loss and gradients as phases of the roofline model, by the same rules as ours, from what their code does.

Bytes per logit of every kernel and GEMM are written out; ``T``, ``V``, ``H`` and the number of pairs are those of the head. Every form is full
fine-tuning with 16-bit operands. Peaks are above inputs and 16-bit gradients.
"""

from __future__ import annotations

from collections.abc import Callable

from roofline_model import Assumptions, Phase, Step, streams
from roofline_ours import Head

CUT_TILE = 128
CUT_GROUP = 8
"""Cut cross-entropy: rows and columns of a tile, and tiles of rows that share a column of the head in the cache."""

TRL_ROWS, TRL_COLUMNS = 4096, 32768
QUACK_ROWS = 4096


def _models(head: Head) -> int:
    return 1 if head.precomputed else 2


def _gemms(head: Head, products: int, logit_bytes: float, reads: int = 1, extra: float = 0.0) -> Phase:
    """``products`` GEMMs of the head whose logit-sized operand or result has ``logit_bytes`` each; the head is read ``reads`` times by each."""
    moved = products * (logit_bytes * head.logits + reads * head.weight_bytes + head.row_bytes)
    return Phase("GEMMs", "gemm", products * head.product_flops, moved + extra)


def naive(head: Head) -> Step:
    """``log_softmax`` of 16-bit logits and ``gather``: logits, log-softmax (kept), zeros of gather's backward, log-softmax's backward."""
    forward = [2 + 2] * _models(head)
    backward = [2, 2 + 2 + 2]
    return Step(
        (_gemms(head, _models(head) + 2, 2), *streams("log_softmax", head.logits, [*forward, *backward])),
        3 * 2 * head.logits,
        head.inputs_bytes,
        "softmax rounded to bf16",
    )


def naive_float32(head: Head) -> Step:
    """The same with ``logits.float()``: the cast, and its backward, and everything between in float32."""
    forward = [2 + 4, 4 + 4] * _models(head)
    backward = [4, 4 + 4 + 4, 4 + 2]
    return Step(
        (_gemms(head, _models(head) + 2, 2), *streams("cast, log_softmax", head.logits, [*forward, *backward])),
        3 * 4 * head.logits,
        head.inputs_bytes,
    )


def compiled(head: Head) -> Step:
    """torch.compile of the float32 form: cast, softmax and gather in one pass over 16-bit logits (kept), the gradient in another."""
    passes = [2] * _models(head) + [2 + 2]
    return Step(
        (_gemms(head, _models(head) + 2, 2), *streams("softmax", head.logits, passes)),
        2 * 2 * head.logits,
        head.inputs_bytes,
    )


def liger(head: Head) -> Step:
    """``LigerFusedLinearDPOLoss(compiled=True)``, one pair per chunk: the compiled form's kernels; each chunk's dW is made by itself and added to
    a 16-bit sum; backward only hands out. Takes no precomputed reference."""
    if head.precomputed:
        raise ValueError("takes no precomputed reference")
    adding = head.weight_bytes * (1 + head.pairs * (1 + 3))  # zeros; a product, read, read and written
    gemms = _gemms(head, _models(head) + 2, 2, reads=head.pairs, extra=adding - head.pairs * head.weight_bytes)
    chunk = head.logits / head.pairs
    return Step(
        (gemms, *streams("softmax", head.logits, [2, 2, 2 + 2])),
        3 * 2 * chunk + head.weight_bytes,
        head.inputs_bytes,
        "prompt rows run too; dW summed in bf16; waits for the host",
    )


def trl(head: Head) -> Step:
    """TRL 1.16's ``ChunkedLogProbFunction``: tiles of 4096 x 32768 16-bit logits, folded, made again in backward, dX and dW summed in float32."""
    row_chunks, column_chunks = -(-head.rows // TRL_ROWS), -(-head.vocab // TRL_COLUMNS)
    made = _models(head) + 1
    sums = (
        row_chunks * 2 * 2 * head.weight_bytes + column_chunks * 2 * 2 * head.row_bytes
    )  # read and written in float32
    finish = (2 + 2 + 1) * (head.weight_bytes + head.row_bytes)  # zeros, and the cast to 16 bits
    return Step(
        (
            _gemms(head, made + 2, 2, reads=row_chunks, extra=sums + finish),
            *streams("fold, gradient", head.logits, [2] * _models(head) + [2 + 2]),
        ),
        2 * (head.weight_bytes + head.row_bytes) + 2 * min(head.rows, TRL_ROWS) * min(head.vocab, TRL_COLUMNS),
        head.inputs_bytes,
        "logits rounded to bf16",
    )


def quack(head: Head) -> Step:
    """QuACK's chunked linear cross-entropy: 4096 rows' 16-bit logits become their gradient in place, dW is summed in float32 by its GEMM."""
    chunks = -(-head.rows // QUACK_ROWS)
    sums = chunks * 2 * 2 * head.weight_bytes + 3 * head.weight_bytes - chunks * head.weight_bytes
    return Step(
        (
            _gemms(head, _models(head) + 2, 2, reads=chunks, extra=sums),
            *streams("cross-entropy", head.logits, [2] * (_models(head) - 1) + [2 + 2 + 2]),
        ),
        2 * min(head.rows, QUACK_ROWS) * head.vocab + 2 * head.weight_bytes,
        head.inputs_bytes,
        "computes cross-entropy: as if DPO's coefficients were known beforehand; logits rounded to bf16",
    )


def cut_cross_entropy(head: Head, kept_blocks: float = 1.0) -> Step:
    """Apple's cut cross-entropy: tile kernels forward and backward without logits in memory; backward adds each tile's products to dX and dW
    under locks, where the cache holds dX of a group of tiles, and dW is read and written once per group."""
    groups = -(-head.rows // (CUT_TILE * CUT_GROUP))
    operands = groups * head.weight_bytes + head.row_bytes
    adding = 2 * groups * head.weight_bytes + 3 * head.row_bytes + head.weight_bytes
    work, logits = kept_blocks * head.product_flops, head.logits
    return Step(
        (
            Phase("log-sum-exp", "tile", _models(head) * head.product_flops, _models(head) * operands, _models(head) * logits, head.rows),
            Phase("logits again", "tile", head.product_flops, operands, logits, head.rows),
            Phase("dX, dW under locks", "tile", 2 * work, kept_blocks * (adding + operands), 0, head.rows, locked=True),
        ),
        64 * head.rows,
        head.inputs_bytes,
        "dX and dW summed in bf16, in no fixed order",
    )  # fmt: skip


def filtered(head: Head, a: Assumptions) -> Step:
    """The same with its filter on (the default): blocks whose gradients are all small are left out."""
    return cut_cross_entropy(head, a.kept_blocks)


Form = Callable[[Head], Step]

OTHERS: dict[str, Form] = {
    "naive bf16": naive,
    "naive fp32": naive_float32,
    "torch.compile": compiled,
    "Liger": liger,
    "TRL": trl,
    "QuACK": quack,
    "CCE exact": cut_cross_entropy,
}
