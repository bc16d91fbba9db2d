"""Shapes, traits and a byte budget in; a plan out. Pure functions: no tensor is touched here.

Two exact designs run the three stages over a linear head (the recompute and the resident one; every loss and every plan gives the
same numbers):

``D0``
    log-sum-exp first, logits recomputed by vocabulary chunks in backward: 8THV FLOPs, valid for every objective.
``D1``
    the logits of one group stay resident until the group's coefficients are known, then its gradients are formed from them: 6THV
    FLOPs, valid where the objective separates by units (a pair, a sequence, the responses to one prompt) and the loss is a scalar.

The budget covers everything that a call allocates besides its inputs, its outputs and the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .objectives.base import Coupling

DEFAULT_BUDGET_BYTES = 64 << 20
"""Budget where the caller names none; exceeded only if the smallest workable plan needs more."""

CHUNK_COLUMNS = 4096
"""Vocabulary columns per GEMM: below about 2000 the per-call cost of 16-bit GEMMs shows, above 4096 nothing is gained."""

SMALLEST_CHUNK = 256
SMALLEST_ROW_BLOCK = 64
MAX_UNBUFFERED_GROUPS = 4
"""A 16-bit dW may be summed over this many groups in its own dtype; beyond it needs a float32 accumulator, or D0."""


@dataclass(frozen=True)
class HeadProblem:
    """What a plan is made from.

    Attributes:
        rows: T, the rows that reach the head (ignored rows do not).
        vocab: V.
        hidden: H.
        itemsize: bytes of an element of the hidden states (2, 4 or 8).
        unit_rows: rows of each unit that the objective couples, where they are known without a device synchronisation; else empty.
        coupling: the objective's declared coupling.
        gradients: whether anything needs a gradient.
        weight_gradient: whether the head does.
        online_reference: whether a reference head runs in the same pass.
        divergence: the objective needs a KL between policy and reference over the vocabulary: both are run, and made again in backward.
        float16: float16 gradient GEMMs. D1 rounds gradients before a loss scaler's factor reaches them, so it is taken only when it is forced.
        weight_itemsize: bytes of an element of the weight; 0: as the hidden states.
        mixed: hidden states and weight have different dtypes, so the gradients' GEMMs run in float32.
        main_grad: dW goes into a float32 buffer of the caller.
        gradient_filter: blocks of the gradients' GEMMs are left out.
        narrow_reference: the reference that runs in the same pass has a 16-bit operand.
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
    mixed: bool = False
    main_grad: bool = False
    gradient_filter: bool = False
    narrow_reference: bool = False

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit: float32, or float64."""
        return max(self.itemsize, 4)

    @property
    def narrow_weight(self) -> bool:
        """A 16-bit head."""
        return (self.weight_itemsize or self.itemsize) == 2

    @property
    def narrow_gradients(self) -> bool:
        """Whether the gradients' GEMMs run in 16 bits."""
        return self.gradients and self.itemsize == 2 and self.narrow_weight and not self.mixed


@dataclass(frozen=True)
class Plan:
    """How a call will run. ``str(plan)`` is the sentence that a log wants."""

    design: Literal["D0", "D1"]
    vocab_chunk: int
    row_block: int
    groups: tuple[tuple[int, int], ...]
    """D1: ranges of units kept resident together. D0: empty."""
    float32_weight_gradient: bool
    """D1 with a 16-bit head or a ``main_grad``: dW is summed over groups in a float32 buffer."""
    flops: int
    scratch_bytes: int

    def __str__(self) -> str:
        what = f"{len(self.groups)} resident group(s)" if self.groups else "logits recomputed in backward"
        return (
            f"{self.design}: {what}, vocabulary chunks of {self.vocab_chunk}, row blocks of {self.row_block}, "
            f"{self.flops / 1e9:.1f} GFLOP, {self.scratch_bytes / 2**20:.1f} MiB of scratch"
        )


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return (a + b - 1) // b


def even_chunk(total: int, limit: int) -> int:
    """The size of equal chunks, a multiple of 64, none above ``limit`` (itself a multiple of 64) where ``total`` is above it."""
    if total <= limit:
        return max(total, 1)
    pieces = ceil_div(total, limit)
    return min(limit, 64 * ceil_div(ceil_div(total, pieces), 64))


def row_overhead_bytes(problem: HeadProblem) -> int:
    """Bytes per row that no chunk size changes: statistics, coefficients, and in 16 bit the float32 hidden states, the float32 dX and its
    partial product."""
    statistics = 6 * 4 + 8
    if problem.itemsize != 2:
        return statistics + (4 * problem.hidden if problem.narrow_reference else 0)
    heads = 2 if problem.divergence else 1
    dx = (4 if problem.gradients else 0) + (2 if problem.narrow_gradients else 0)
    return statistics + problem.hidden * (4 * heads + dx)


def chunk_bytes(problem: HeadProblem, rows: int, vocab_chunk: int, row_block: int) -> int:
    """Scratch of one vocabulary chunk: its logits and what its operands are cast to (see :func:`operand_bytes`)."""
    logits = row_block * vocab_chunk * problem.logit_bytes * (2 if problem.divergence else 1)
    return logits + operand_bytes(problem, vocab_chunk, row_block, split=row_block < rows)


def operand_bytes(problem: HeadProblem, vocab_chunk: int, row_block: int, *, split: bool) -> int:
    """Scratch of one vocabulary chunk besides its logits: a 16-bit head's rows in float32, the 16-bit gradient of the logits, a float32 dW
    chunk where it is not written at once (``split``: rows come in several blocks), and the operands of a filtered GEMM."""
    narrow = problem.narrow_weight or problem.narrow_reference
    per_column = 4 * (2 if problem.divergence else 1) if narrow else 0
    if problem.gradients and problem.weight_gradient:
        at_once = problem.narrow_gradients and not split and not problem.gradient_filter
        if problem.main_grad:
            per_column += 2 if problem.narrow_gradients else 0
        elif problem.narrow_weight and not at_once:
            per_column += 4 + (2 if problem.narrow_gradients else 0)
    if problem.gradients and problem.gradient_filter:
        per_column += 3 * problem.logit_bytes
    rounded = row_block * vocab_chunk * 2 if problem.narrow_gradients else 0
    return vocab_chunk * problem.hidden * per_column + rounded


def plan_recompute(problem: HeadProblem, budget_bytes: int | None) -> Plan:
    """D0 within the budget. Raises ``ValueError`` where a named budget is below the smallest workable plan."""
    rows, fixed = max(problem.rows, 1), max(problem.rows, 1) * row_overhead_bytes(problem)
    limit = DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes
    candidates = [
        (even_chunk(problem.vocab, chunk), even_chunk(rows, block))
        for chunk in (CHUNK_COLUMNS, 2048, 1024, 512, SMALLEST_CHUNK)
        for block in (1 << 30, 4096, 1024, 256, SMALLEST_ROW_BLOCK)
    ]
    # Few GEMM calls first; among equals, all rows at once (dW in one GEMM).
    candidates.sort(key=lambda c: (ceil_div(problem.vocab, c[0]) * ceil_div(rows, c[1]), -c[1]))
    smallest = min(candidates, key=lambda c: chunk_bytes(problem, rows, *c))
    fits = [c for c in candidates if fixed + chunk_bytes(problem, rows, *c) <= limit]
    if not fits and budget_bytes is not None:
        needed = fixed + chunk_bytes(problem, rows, *smallest)
        raise ValueError(
            f"budget_bytes: expected at least {needed} for T={problem.rows}, H={problem.hidden}, V={problem.vocab}, found {budget_bytes}"
        )
    vocab_chunk, row_block = fits[0] if fits else smallest
    flops = (8 if problem.gradients else 2) + (2 if problem.online_reference else 0)
    if problem.gradients and not problem.weight_gradient:
        flops -= 2
    if problem.gradients and problem.divergence:
        flops += 2
    return Plan(
        "D0",
        vocab_chunk,
        row_block,
        (),
        False,
        flops * problem.rows * problem.hidden * problem.vocab,
        fixed + chunk_bytes(problem, rows, vocab_chunk, row_block),
    )


def group_units(unit_rows: Sequence[int], most_rows: int) -> list[tuple[int, int]] | None:
    """Consecutive units in groups of at most ``most_rows`` rows; ``None`` where one unit alone is larger."""
    groups: list[tuple[int, int]] = []
    start, held = 0, 0
    for i, rows in enumerate(unit_rows):
        if rows > most_rows:
            return None
        if held + rows > most_rows:
            groups.append((start, i))
            start, held = i, 0
        held += rows
    groups.append((start, len(unit_rows)))
    return groups


def plan_resident(problem: HeadProblem, budget_bytes: int | None) -> Plan | None:
    """D1 within the budget, or ``None`` where it is not valid or does not fit."""
    if not problem.gradients or problem.divergence or problem.coupling == "batch" or not problem.unit_rows:
        return None
    limit = DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes
    per_row = problem.vocab * problem.logit_bytes + row_overhead_bytes(problem) + problem.hidden * problem.itemsize * 2
    chunk = even_chunk(problem.vocab, CHUNK_COLUMNS)
    accumulator = problem.vocab * problem.hidden * problem.logit_bytes
    if problem.narrow_gradients:  # what is added to it
        accumulator += chunk * problem.hidden * 2
    per_row += operand_bytes(problem, chunk, 1, split=False) - operand_bytes(problem, chunk, 0, split=False)
    fixed = operand_bytes(problem, chunk, 0, split=False)
    keeps_dw = problem.main_grad and problem.weight_gradient
    sums_in_16_bit = problem.weight_gradient and problem.narrow_weight and not keeps_dw
    for buffered in (True,) if keeps_dw else (False, True) if sums_in_16_bit else (False,):
        room = limit - fixed - (accumulator if buffered else 0)
        groups = group_units(problem.unit_rows, room // per_row)
        if groups is None or (sums_in_16_bit and not buffered and len(groups) > MAX_UNBUFFERED_GROUPS):
            continue
        held = max(sum(problem.unit_rows[a:b]) for a, b in groups)
        buffered = buffered and (keeps_dw or len(groups) > 1)
        flops = (6 if problem.weight_gradient else 4) + (2 if problem.online_reference else 0)
        return Plan(
            "D1",
            chunk,
            held,
            tuple(groups),
            buffered,
            flops * problem.rows * problem.hidden * problem.vocab,
            held * per_row + fixed + (accumulator if buffered else 0),
        )
    return None


def why_not_resident(problem: HeadProblem) -> str:
    """The reason why :func:`plan_resident` gave ``None``."""
    if not problem.gradients:
        return "nothing needs a gradient"
    if problem.coupling == "batch":
        return "the objective couples all sequences of the batch"
    if problem.divergence:
        return "the objective needs a KL over the vocabulary, which keeps no logits"
    if not problem.unit_rows:
        return "the sequence boundaries are not known on the host"
    logits = max(problem.unit_rows) * problem.vocab * problem.logit_bytes
    return f"budget_bytes does not hold the logits of the largest unit ({logits} bytes) and the rest of its scratch"


def make_plan(problem: HeadProblem, budget_bytes: int | None = None, design: str | None = None) -> Plan:
    """The cheapest plan in FLOPs that the objective allows and the budget holds.

    Args:
        problem: the shapes and traits.
        budget_bytes: scratch allowed; ``None`` for :data:`DEFAULT_BUDGET_BYTES`, or the least that works if that is more.
        design: force ``"D0"`` or ``"D1"``.

    Raises:
        ValueError: the budget is too small, ``design`` is unknown, or D1 was forced where it is not valid or does not fit.
    """
    if budget_bytes is not None and not isinstance(budget_bytes, int):
        raise TypeError(f"budget_bytes: expected a whole number of bytes, found {budget_bytes!r}")
    if budget_bytes is not None and budget_bytes <= 0:
        raise ValueError(f"budget_bytes: expected a number above 0, found {budget_bytes}")
    if design not in (None, "D0", "D1"):
        raise ValueError(f"plan: expected 'D0' or 'D1', found {design!r}")
    wanted = design == "D1" or (design is None and not problem.float16)
    resident = plan_resident(problem, budget_bytes) if wanted else None
    if resident is not None:
        return resident
    if design == "D1":
        raise ValueError(f"plan: 'D1' cannot be used: {why_not_resident(problem)}")
    return plan_recompute(problem, budget_bytes)
