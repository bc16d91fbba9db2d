"""This package's plans as phases of the roofline model: FLOPs, bytes and scratch are the planner's own (``fastpref.plan_costs``).

Two forms of each plan. ``chunked`` makes chunks of float32 logits by the library's GEMMs, which the row kernels read and overwrite: what runs where
there is no kernel for the whole head. ``fused`` makes logits in the registers of tile kernels (``fastpref.backends.triton_head``): only the
16-bit gradients of a chunk, and what a plan keeps, go to memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from roofline_model import Phase, Step, streams

from fastpref.backends.triton_costs import TritonHeadCosts
from fastpref.plan_costs import (
    HeadProblem,
    Work,
    ceil_div,
    forward_work,
    grouped_work,
    product_work,
)
from fastpref.planner import Plan, make_plan

BUDGET_BYTES = 8 << 30
"""For all plans: a few per cent of a GPU's memory, and all logits of the smaller problems."""

STATS_PASSES, GRADIENT_PASSES = 1, 2
"""Bytes that the row kernels move, in passes over the logits: one read; one read and one write. Counted in the interpreter by a test."""

ENGINE = TritonHeadCosts(torch.bfloat16, torch.bfloat16)
"""What the tile kernels tell the planner of themselves."""

STATISTICS, GRADIENT = "linear_stats, bfloat16, plain", "linear_grad, bfloat16, plain"
"""The tile kernels, in the report of the compilers."""


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


def problem(head: Head, engine: TritonHeadCosts | None = None) -> HeadProblem:
    """The planner's view; ``engine`` makes the logits, both models', or GEMMs of chunks do."""
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
        tiles=engine,
        reference_tiles=None if head.precomputed else engine,
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
    chunks = ceil_div(p.vocab, made.vocab_chunk)
    if made.design in ("D0", "D3"):
        products = product_work(p, p.rows, chunks, ceil_div(p.rows, made.row_block))
        sweep = forward_work(p, chunks, made.row_block, made.kept_rows)
    else:
        row_blocks = _row_blocks(p, made)
        products = product_work(p, p.rows, chunks, len(row_blocks))
        sweep = _less(grouped_work(p, chunks, row_blocks), products)
    return Parts(sweep, products, _less(Work(made.flops, made.bytes_moved), sweep, products))


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
    """Tile kernels with the statistics or the gradient as their epilogue; dX and dW by library GEMMs.

    Moves the plan's bytes, and in D1 and D2 what is kept, which the planner counts where it outlives a call. Raises ``ValueError`` where
    the planner has no plan of that design.
    """
    p = problem(head, ENGINE)
    made = make_plan(p, BUDGET_BYTES, design)
    parts = _parts(p, made)
    operand, remade = ENGINE.logit_bytes, parts.rest.flops // (2 * p.hidden)
    kept = head.logits - remade
    keeping = ENGINE.kept_bytes(kept // p.vocab, p.vocab)
    counted = 2 * keeping if made.design == "D3" else 0
    rest = parts.products.bytes_moved + parts.rest.bytes_moved - counted - operand * head.logits
    phases = [
        Phase("statistics", "tile", parts.sweep.flops, parts.sweep.bytes_moved + keeping, _swept(head), head.rows, kernel=STATISTICS),
        Phase("gradient of what was kept", "stream", 0, keeping + operand * kept, kept),
        Phase("gradient of logits made again", "tile", parts.rest.flops, operand * remade, remade, head.rows, kernel=GRADIENT),
        Phase("dX, dW", "gemm", parts.products.flops, rest),
    ]  # fmt: skip
    return Step(tuple(phases), made.scratch_bytes, head.inputs_bytes)
