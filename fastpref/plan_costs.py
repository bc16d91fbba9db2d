"""What a plan costs: FLOPs, bytes moved, GEMM calls and peak scratch, as functions of shapes. No tensor is touched here.

FLOPs are exact: they are those of the GEMM calls that :mod:`fastpref.linear_head` makes (a test counts them). Bytes moved are those of the
operands and results of every GEMM and row primitive, as if no cache held anything between two of them: the same yardstick for every plan.
Scratch is what a call has allocated at its peak besides its inputs, its outputs and the gradients.

Seconds are FLOPs and bytes at the nominal rates of a class of devices, plus the first touch of what is fresh in the scratch and a fixed time
for each GEMM call and each group of units. They only order the plans of one problem: only the ratios of the rates matter, and these move far less from machine to machine than the rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .engine_costs import EngineCosts
from .objectives.base import Coupling


@dataclass(frozen=True)
class DeviceClass:
    """Nominal rates of a class of devices.

    Attributes:
        flops: per second, by bytes of an operand element.
        bandwidth: bytes per second to and from memory.
        call_seconds: of a GEMM call besides its FLOPs and bytes: dispatch, packing, and the row primitive that goes with it.
        group_seconds: of a group of units besides its GEMMs: rows are picked, and stage 2 and its gradient run once more, on the host.
    """

    flops: dict[int, float]
    bandwidth: float
    call_seconds: float
    group_seconds: float


DEVICES = {
    "cpu": DeviceClass({2: 400e9, 4: 200e9, 8: 100e9}, 20e9, 2e-5, 2e-3),
    "gpu": DeviceClass({2: 400e12, 4: 40e12, 8: 20e12}, 2e12, 1e-5, 3e-3),
}
"""A few cores of a server; a data-centre GPU, where a group also waits for the host."""

ROW_BYTES = 256
"""Per row that reaches the head: statistics, coefficients, and stage 2 with its gradient in float64."""


@dataclass(frozen=True)
class HeadProblem:
    """What a plan is made from.

    Attributes:
        rows: T, the rows that reach the head (ignored rows do not).
        vocab: V.
        hidden: H.
        itemsize: bytes of an element of the hidden states (2, 4 or 8).
        unit_rows: the rows out of T of each unit that the objective couples, where they are known without a device synchronisation; else empty.
        coupling: the objective's declared coupling.
        gradients: whether anything needs a gradient.
        weight_gradient: whether the head does.
        online_reference: whether a reference head runs in the same pass.
        divergence: the objective needs a KL between policy and reference over the vocabulary: both are run, and made again in backward.
        float16: float16 operands. D1 and D2 round gradients before a loss scaler's factor reaches them, so they are taken only when forced.
        weight_itemsize: bytes of an element of the head; 0: that of the hidden states.
        logit_bytes: bytes per logit, of the chunk at hand and of what is kept; 0: float32, or float64 for float64 operands.
        hidden_gradient: whether the hidden states need a gradient.
        bias_gradient: whether the bias does.
        reference_hidden: H of the reference; 0: that of the policy.
        shared_head: policy and reference have the same head: their rows run in one sweep.
        ignored: some rows are ignored, so that those that are not have to be copied together.
        scalar_loss: the call returns a scalar loss; otherwise log-probs, whose gradients are the caller's.
        known_direction: the gradient with respect to the log-probs of a unit's rows is known beforehand but for one factor.
        device: the class of the device, a key of :data:`DEVICES`.
        mixed: hidden states and head have different dtypes, so that the gradients' GEMMs run in float32.
        main_grad: dW goes into a float32 buffer of the caller.
        gradient_filter: blocks of the gradients' GEMMs are left out.
        narrow_reference: an online reference has a 16-bit operand, which the GEMMs of chunks take in float32.
        tiles: the costs of the engine that runs the whole vocabulary in one call, tile by tile; ``None``: chunks of logits by GEMM calls.
        reference_tiles: the same of an online reference.
        softcap: the logits are soft-capped.
    """

    rows: int
    vocab: int
    hidden: int
    itemsize: int
    unit_rows: Sequence[int] = ()
    coupling: Coupling = "batch"
    gradients: bool = True
    weight_gradient: bool = True
    online_reference: bool = False
    divergence: bool = False
    float16: bool = False
    weight_itemsize: int = 0
    logit_bytes: int = 0
    hidden_gradient: bool = True
    bias_gradient: bool = False
    reference_hidden: int = 0
    shared_head: bool = False
    ignored: bool = False
    scalar_loss: bool = True
    known_direction: bool = False
    device: Literal["cpu", "gpu"] = "cpu"
    mixed: bool = False
    main_grad: bool = False
    gradient_filter: bool = False
    narrow_reference: bool = False
    tiles: EngineCosts | None = None
    reference_tiles: EngineCosts | None = None
    softcap: bool = False

    def __post_init__(self) -> None:
        weight = self.weight_itemsize or self.itemsize
        object.__setattr__(self, "weight_itemsize", weight)
        object.__setattr__(self, "logit_bytes", self.logit_bytes or max(self.itemsize, weight, 4))
        object.__setattr__(self, "reference_hidden", self.reference_hidden or self.hidden)
        object.__setattr__(self, "unit_rows", tuple(self.unit_rows))

    @property
    def operand_bytes(self) -> int:
        """Of an element of the GEMMs' operands: the wider of hidden states and head."""
        return max(self.itemsize, self.weight_itemsize)

    @property
    def accumulator_bytes(self) -> int:
        """Of an element of a sum: float64 for float64, float32 for everything else."""
        return max(4, self.operand_bytes)

    @property
    def narrow_weight(self) -> bool:
        """A 16-bit head, whose rows are cast for exact logits."""
        return self.weight_itemsize == 2 and self.tiles is None

    @property
    def narrow_gradients(self) -> bool:
        """Whether the gradients' GEMMs run in 16 bits."""
        return self.gradients and self.itemsize == self.weight_itemsize == 2 and not self.mixed and self.tiles is None

    @property
    def streamed_bytes(self) -> int:
        """Bytes per logit that go to memory and back; an engine's do not."""
        return 0 if self.tiles else self.logit_bytes

    @property
    def stacked(self) -> bool:
        """Whether policy and reference rows run in one sweep."""
        return self.online_reference and self.shared_head and not self.divergence

    @property
    def sweep_rows(self) -> int:
        """Rows of the forward sweep."""
        return self.rows * (2 if self.stacked else 1)

    @property
    def products(self) -> int:
        """Gradient GEMMs per chunk: dX, dW."""
        return (self.hidden_gradient + self.weight_gradient) if self.gradients else 0


@dataclass(frozen=True)
class Work:
    """What running something takes."""

    flops: int = 0
    bytes_moved: int = 0
    calls: int = 0
    groups: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.bytes_moved + other.bytes_moved,
            self.calls + other.calls,
            self.groups + other.groups,
        )

    def seconds(self, problem: HeadProblem) -> float:
        """At the nominal rates of the problem's device. Scratch costs nothing: its memory is kept from call to call."""
        device = DEVICES[problem.device]
        rate = device.flops[problem.operand_bytes]
        own = None if problem.tiles is None else problem.tiles.flops
        return (
            self.flops / (own or rate)
            + self.bytes_moved / device.bandwidth
            + (0 if own else self.calls * device.call_seconds)
            + self.groups * device.group_seconds
        )


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return (a + b - 1) // b


def pieces(rows: int, row_block: int, kept: int = 0) -> int:
    """GEMM calls of a forward sweep over ``rows`` per vocabulary chunk: no call takes both kept rows and others."""
    kept = min(kept, rows)
    return ceil_div(kept, row_block) + ceil_div(rows - kept, row_block)


# --- work ---------------------------------------------------------------------------------------------------------------------


def forward_work(problem: HeadProblem, chunks: int, row_block: int, kept: int = 0) -> Work:
    """The statistics of all rows of the policy, and of the reference where it runs online."""
    rows, vocab, item = problem.sweep_rows, problem.vocab, problem.itemsize
    calls = pieces(rows, row_block, kept)
    work = Work(
        2 * rows * problem.hidden * vocab,
        calls * vocab * problem.hidden * problem.weight_itemsize
        + chunks * rows * problem.hidden * item
        + 2 * rows * vocab * problem.streamed_bytes,
        calls * chunks,
    )
    if not problem.online_reference or problem.stacked:
        return work
    size, calls = problem.reference_hidden, pieces(problem.rows, row_block, kept)
    return work + Work(
        2 * problem.rows * size * vocab,
        calls * vocab * size * problem.weight_itemsize
        + chunks * problem.rows * size * item
        + 2 * problem.rows * vocab * problem.streamed_bytes,
        calls * chunks,
    )


def product_work(problem: HeadProblem, rows: int, chunks: int, calls: int) -> Work:
    """The gradients of ``rows`` rows from their logits, in ``calls`` GEMM calls of each kind per chunk; dW's traffic is counted elsewhere."""
    vocab, size = problem.vocab, problem.hidden
    reads = problem.products + problem.bias_gradient
    of_engine = 0 if problem.tiles is None else problem.tiles.logit_bytes
    moved = rows * vocab * ((2 + reads) * problem.streamed_bytes + (1 + reads) * of_engine)
    if problem.hidden_gradient:
        moved += calls * vocab * size * problem.weight_itemsize
        moved += 2 * chunks * rows * size * problem.accumulator_bytes
    if problem.weight_gradient:
        moved += chunks * rows * size * problem.itemsize
    return Work(problem.products * 2 * rows * size * vocab, moved, problem.products * calls * chunks)


def recompute_work(problem: HeadProblem, chunks: int, row_block: int, kept: int = 0) -> Work:
    """D0, and D3 with ``kept`` rows."""
    work = forward_work(problem, chunks, row_block, kept)
    if not problem.gradients:
        return work
    rows, vocab = problem.rows, problem.vocab
    blocks, again = ceil_div(rows, row_block), rows - min(kept, rows)
    work += product_work(problem, rows, chunks, blocks)
    heads = [problem.hidden, *([problem.reference_hidden] if problem.divergence else [])]
    calls = ceil_div(again, row_block)
    for size in heads:
        work += Work(
            2 * again * size * vocab,
            calls * vocab * size * problem.weight_itemsize
            + chunks * again * size * problem.itemsize
            + again * vocab * problem.streamed_bytes,
            calls * chunks,
        )
    if problem.weight_gradient:
        narrow = problem.weight_itemsize < problem.accumulator_bytes
        sums = 2 * (blocks - 1) * (problem.accumulator_bytes if narrow else problem.weight_itemsize)
        work += Work(0, vocab * problem.hidden * (problem.weight_itemsize + sums))
    return work


def grouped_work(problem: HeadProblem, chunks: int, blocks: Sequence[int]) -> Work:
    """D1 and D2: every block of ``blocks`` rows is swept, and its gradients are formed from its logits; dW's traffic is counted elsewhere."""
    rows, vocab, item = problem.rows, problem.vocab, problem.itemsize
    total = product_work(problem, rows, chunks, len(blocks))
    sizes = [problem.hidden, *([problem.reference_hidden] if problem.online_reference else [])]
    for place, size in enumerate(sizes):
        read_again = place == 0 or not problem.stacked
        total += Work(
            2 * rows * size * vocab,
            (len(blocks) * vocab * size * problem.weight_itemsize if read_again else 0)
            + chunks * rows * size * item
            + 2 * rows * vocab * problem.streamed_bytes,
            len(blocks) * chunks,
        )
    return total


# --- scratch ------------------------------------------------------------------------------------------------------------------


def row_bytes(problem: HeadProblem) -> int:
    """Bytes for all rows of D0 and D3 that no chunk size changes: :data:`ROW_BYTES`, copies of rows, 16-bit rows in float32, the float32 dX of
    narrower operands."""
    item, size = problem.itemsize, problem.hidden
    forward = problem.sweep_rows * size * item if problem.ignored or problem.stacked else 0
    if problem.stacked and problem.ignored:
        forward += problem.sweep_rows * size * item  # the copies of either side, before they are put together
    backward = 0
    if problem.gradients:
        backward = problem.rows * size * item * (2 if problem.ignored else 0)
        if problem.hidden_gradient and problem.itemsize < problem.accumulator_bytes and not problem.tiles:
            backward += problem.rows * size * problem.accumulator_bytes
    if problem.divergence and problem.ignored:
        forward += problem.rows * problem.reference_hidden * item
        backward += problem.rows * problem.reference_hidden * item
    if problem.itemsize == 2 and not problem.tiles:
        wide = problem.rows * problem.reference_hidden * 4 if problem.divergence else 0
        forward += problem.sweep_rows * size * 4 + wide
        backward += problem.rows * size * 4 + wide
    elif problem.narrow_reference:
        forward += problem.rows * problem.reference_hidden * 4
    return problem.rows * ROW_BYTES + max(forward, backward)


def chunk_bytes(problem: HeadProblem, rows: int, vocab_chunk: int, row_block: int) -> int:
    """Scratch of one vocabulary chunk of ``rows`` rows: its logits, operands in a wider dtype, partial products."""
    block, size = min(row_block, rows), problem.hidden
    logits = block * vocab_chunk * problem.logit_bytes * (2 if problem.divergence else 1)
    total = logits + cast_bytes(problem, vocab_chunk)
    if not problem.gradients:
        return total
    if problem.narrow_gradients:
        total += block * vocab_chunk * 2 + (block * size * 2 if problem.hidden_gradient else 0)
    return total + product_bytes(problem, vocab_chunk, split=row_block < problem.rows)


def cast_bytes(problem: HeadProblem, vocab_chunk: int) -> int:
    """A 16-bit head's rows of one chunk in float32, for exact logits."""
    size = max(problem.hidden, problem.reference_hidden) if problem.narrow_reference else problem.hidden
    return (
        vocab_chunk * size * 4 * (2 if problem.divergence else 1)
        if problem.narrow_weight or problem.narrow_reference
        else 0
    )


def product_bytes(problem: HeadProblem, vocab_chunk: int, *, split: bool) -> int:
    """A chunk of dW before it is rounded, or added to what is there, and the operands of a filtered GEMM. ``split``: rows come in blocks."""
    per_column, operand = 0, 2 if problem.narrow_gradients else problem.accumulator_bytes
    if problem.weight_gradient:
        staged = problem.weight_itemsize == 2 and not problem.main_grad
        staged = staged and (split or problem.gradient_filter or not problem.narrow_gradients)
        per_column += 4 if staged else 0
        if staged or problem.main_grad or problem.gradient_filter or problem.float16:
            per_column += operand + (4 if problem.float16 else 0)
    if problem.gradient_filter:
        per_column += 3 * problem.accumulator_bytes
    return vocab_chunk * problem.hidden * per_column


def recompute_bytes(problem: HeadProblem, vocab_chunk: int, row_block: int, kept: int) -> int:
    """D0, and D3 with ``kept`` rows: the peak."""
    fixed = (
        row_bytes(problem) + bias_bytes(problem) + reference_bytes(problem, min(row_block, problem.rows), vocab_chunk)
    )
    rows = max(problem.sweep_rows, 1)
    if problem.tiles is None:
        return fixed + chunk_bytes(problem, rows, vocab_chunk, row_block) + kept * problem.vocab * problem.logit_bytes
    swept = max(kept, min(row_block, rows))
    return fixed + tile_bytes(
        problem, problem.tiles, max(problem.rows, 1), swept, vocab_chunk, row_block, kept, problem.main_grad
    )


def reference_bytes(problem: HeadProblem, rows: int, vocab_chunk: int) -> int:
    """An online reference with its own head, ``rows`` rows at a time, where an engine runs it or the policy, but not both."""
    apart = problem.online_reference and not problem.shared_head and not problem.divergence
    if not apart or (problem.tiles is None) == (problem.reference_tiles is None):
        return 0
    if problem.reference_tiles is None:
        return rows * vocab_chunk * problem.logit_bytes
    return problem.reference_tiles.statistics_bytes(rows, problem.vocab, problem.reference_hidden) + 4 * problem.vocab


def tile_bytes(
    problem: HeadProblem,
    engine: EngineCosts,
    rows: int,
    swept: int,
    vocab_chunk: int,
    row_block: int,
    kept: int,
    float32_dw: bool,
) -> int:
    """Scratch of an engine: ``swept`` rows at a time forward, gradients of ``rows``, and what is kept of ``kept`` rows."""
    size = max(problem.hidden, problem.reference_hidden if problem.online_reference else 0)
    forward = max(
        each.statistics_bytes(swept, problem.vocab, size, all_statistics=True)
        for each in (engine, problem.reference_tiles or engine)
    )
    backward = 0
    if problem.gradients:
        backward = engine.gradient_bytes(
            rows,
            problem.vocab,
            problem.hidden,
            vocab_chunk,
            row_block,
            dx=problem.hidden_gradient,
            dw=problem.weight_gradient,
            db=problem.bias_gradient,
            float32_dw=float32_dw,
        )
    held = engine.kept_bytes(kept, problem.vocab, softcap=problem.softcap)
    return max(forward, backward) + held + (4 * problem.vocab)  # a bias in float32


def bias_bytes(problem: HeadProblem) -> int:
    """db, and the chunk's own share of it, in the accumulation dtype."""
    return 2 * problem.vocab * problem.accumulator_bytes if problem.gradients and problem.bias_gradient else 0


def held_bytes(problem: HeadProblem, vocab_chunk: int) -> int:
    """D1 and D2, for each row whose logits are kept: the logits, copies of its operands, dX, and a reference's chunk where it runs online."""
    size, item, accumulate = problem.hidden, problem.itemsize, problem.accumulator_bytes
    # The operands of the block before are alive when the next are copied.
    held = problem.vocab * problem.logit_bytes + 2 * size * item
    if item == 2:
        held += size * 4
    if problem.narrow_gradients:
        held += vocab_chunk * 2 + (size * 2 if problem.hidden_gradient else 0)
    if problem.hidden_gradient:
        held += size * (accumulate + 2 * item if item < accumulate else 2 * item)
    if problem.online_reference:
        held += vocab_chunk * problem.logit_bytes + problem.reference_hidden * item * (3 if problem.stacked else 1)
    return held
