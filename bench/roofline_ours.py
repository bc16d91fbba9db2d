"""This package's plans as phases of the roofline model: FLOPs, bytes and scratch are the planner's own (``fastpref.plan_costs``).

Two forms of each plan. ``chunked`` makes chunks of float32 logits by the library's GEMMs, which the row kernels read and overwrite: what runs where
there is no kernel for the whole head. ``fused`` makes logits in the registers of a tile kernel: only the 16-bit gradients of a chunk, and
what a plan keeps, go to memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from roofline_model import Phase, Step, streams

from fastpref.plan_costs import (
    ROW_BYTES,
    HeadProblem,
    Work,
    ceil_div,
    forward_work,
    grouped_work,
    product_work,
    recompute_work,
)
from fastpref.planner import Plan, make_plan

BUDGET_BYTES = 8 << 30
"""For all plans: a few per cent of a GPU's memory, and all logits of the smaller problems."""

STATS_PASSES, GRADIENT_PASSES = 1, 2
"""Bytes that the row kernels move, in passes over the logits: one read; one read and one write. Counted in the interpreter by a test."""

KEPT_BYTES = 2 + 4 / 64
"""Of a logit that the fused form keeps: a 16-bit exponential, and a float32 reference for each 64 of them."""

SEGMENTS = 128
"""Parts of the vocabulary whose row statistics the fused form merges: 8 bytes each per row."""


@dataclass(frozen=True)
class Head:
    """A linear head and T completion tokens in pairs of equal length: policy and reference have heads of their own."""

    name: str
    hidden: int
    vocab: int
    rows: int
    pair_rows: int = 2048
    precomputed: bool = False

    @property
    def pairs(self) -> int:
        return max(1, self.rows // self.pair_rows)

    @property
    def logits(self) -> int:
        return self.rows * self.vocab

    @property
    def product_flops(self) -> int:
        """Of one GEMM of the head: 2THV."""
        return 2 * self.logits * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Of one 16-bit head."""
        return 2 * self.vocab * self.hidden

    @property
    def row_bytes(self) -> int:
        """Of one model's 16-bit hidden states."""
        return 2 * self.rows * self.hidden

    @property
    def inputs_bytes(self) -> int:
        """Hidden states and heads of both models, and the two gradients, in 16 bits."""
        models = 1 if self.precomputed else 2
        return (models + 1) * (self.weight_bytes + self.row_bytes)


def problem(head: Head) -> HeadProblem:
    """The planner's view."""
    return HeadProblem(
        rows=head.rows,
        vocab=head.vocab,
        hidden=head.hidden,
        itemsize=2,
        unit_rows=(head.rows // head.pairs,) * head.pairs,
        coupling="pair",
        online_reference=not head.precomputed,
        narrow_reference=not head.precomputed,
        known_direction=True,
        device="gpu",
    )


def _row_blocks(p: HeadProblem, made: Plan) -> list[int]:
    """Rows that D1 and D2 run at a time."""
    if made.design == "D1":
        return [sum(p.unit_rows[a:b]) for a, b in made.groups]
    return [min(made.row_block, rows - start) for rows in p.unit_rows for start in range(0, rows, made.row_block)]


@dataclass(frozen=True)
class Parts:
    """A plan's work: the forward GEMMs, those of the gradients from logits that are there, and the rest: logits made again, sums of dW."""

    sweep: Work
    products: Work
    rest: Work


def _less(total: Work, *parts: Work) -> Work:
    flops, nbytes = sum(part.flops for part in parts), sum(part.bytes_moved for part in parts)
    return Work(total.flops - flops, total.bytes_moved - nbytes)


def _parts(p: HeadProblem, made: Plan) -> Parts:
    """Of a plan of chunked GEMMs, on its own problem or with logits that do not go to memory."""
    chunks = ceil_div(p.vocab, made.vocab_chunk)
    if made.design in ("D0", "D3"):
        products = product_work(p, p.rows, chunks, ceil_div(p.rows, made.row_block))
        sweep = forward_work(p, chunks, made.row_block, made.kept_rows)
        total = recompute_work(p, chunks, made.row_block, made.kept_rows)
        return Parts(sweep, products, _less(total, sweep, products))
    row_blocks = _row_blocks(p, made)
    both, products = grouped_work(p, chunks, row_blocks), product_work(p, p.rows, chunks, len(row_blocks))
    planned = grouped_work(replace(p, tiles=None), chunks, row_blocks)
    return Parts(_less(both, products), products, _less(Work(made.flops, made.bytes_moved), planned))


def _swept(head: Head) -> int:
    """Logits of the forward sweep."""
    return head.logits * (1 if head.precomputed else 2)


def chunked(head: Head, design: str) -> Step:
    """Chunks of logits by library GEMMs, row kernels between them. Moves exactly the plan's bytes.

    Raises ``ValueError`` where the planner has no plan of that design.
    """
    p = problem(head)
    made = make_plan(p, BUDGET_BYTES, design)
    parts = _parts(p, made)
    stats, gradient = STATS_PASSES * p.logit_bytes, GRADIENT_PASSES * p.logit_bytes
    moved = parts.products.bytes_moved + parts.rest.bytes_moved - gradient * head.logits
    phases = [
        Phase("logits", "gemm", parts.sweep.flops, parts.sweep.bytes_moved - stats * _swept(head)),
        *streams("row statistics", _swept(head), [stats], "row_stats, float32, plain"),
        *streams("row gradient", head.logits, [gradient], "row_grad, float32, plain"),
        Phase("logits again, dX, dW", "gemm", parts.products.flops + parts.rest.flops, moved),
    ]
    return Step(tuple(phases), made.scratch_bytes, head.inputs_bytes)


def fused(head: Head, design: str) -> Step:
    """Tile kernels with the statistics or the gradient as their epilogue; dX and dW by library GEMMs. Cut into blocks as the chunked form is.

    Raises ``ValueError`` where the planner has no plan of that design.
    """
    made = make_plan(problem(head), BUDGET_BYTES, design)
    p = replace(
        problem(head), tiles=(1, 1)
    )  # the planner's name for logits that stay in registers: none goes to memory
    parts = _parts(p, made)
    remade = parts.rest.flops // (2 * p.hidden)
    kept = head.logits - remade
    operands = p.products * p.itemsize * head.logits
    phases = [
        Phase("statistics", "tile", parts.sweep.flops, parts.sweep.bytes_moved + KEPT_BYTES * kept, _swept(head), head.rows),
        Phase("gradient of what was kept", "stream", 0, (KEPT_BYTES + p.itemsize) * kept, kept),
        Phase("gradient of logits made again", "tile", parts.rest.flops, p.itemsize * remade, remade, head.rows),
        Phase("dX, dW", "gemm", parts.products.flops, parts.products.bytes_moved + parts.rest.bytes_moved + operands),
    ]  # fmt: skip
    return Step(tuple(phases), _fused_scratch(head, p, made), head.inputs_bytes)


def _fused_scratch(head: Head, p: HeadProblem, made: Plan) -> float:
    """Statistics by segment, a chunk of 16-bit gradients, dX in float32, scaled hidden states, what is kept, and sums of dW."""
    units = made.design in ("D1", "D2")
    held = max(_row_blocks(p, made)) if units else head.rows
    scratch = head.rows * ROW_BYTES + 8 * SEGMENTS * held
    scratch += held * (made.vocab_chunk * p.itemsize + head.hidden * (p.accumulator_bytes + p.itemsize))
    scratch += (held if units else made.kept_rows) * head.vocab * KEPT_BYTES
    if made.float32_weight_gradient:
        sums = 2 if made.design == "D2" and head.pairs > 1 else 1
        scratch += sums * head.vocab * head.hidden * p.accumulator_bytes
    return scratch
