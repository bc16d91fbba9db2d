"""Shapes, traits and a byte budget in; a plan out. Pure functions: no tensor is touched here.

Four exact designs run the three stages over a linear head; every loss and every plan gives the same numbers. FLOPs for full
fine-tuning, without a reference (online: ``+2THV``):

``D0``
    log-sum-exp first, logits recomputed by vocabulary chunks in backward: 8THV, valid for everything.
``D1``
    the logits of a group of units (a pair, a sequence, the responses to one prompt) stay until the group's coefficients are known, then
    its gradients are formed from them: 6THV, valid where the objective separates by units and the loss is a scalar.
``D2``
    gradients of a unit are accumulated unscaled, a few rows at a time, and scaled when its one coefficient is known: 6THV, valid where
    the direction of a unit's gradient is known beforehand (margin-only losses of pairs, losses of single sequence log-probs).
``D3``
    as many rows' logits as the budget holds are kept from the forward call to its backward, those of the others are recomputed:
    6THV to 8THV, valid wherever D0 is and logits need not be seen beside a reference's.

The budget covers everything that a call allocates besides its inputs, its outputs and the gradients. It is a peak: D1 and D2 have freed it
when the call returns, D0 has nothing between forward and backward, and with D3 the kept logits live from one to the other, whatever
runs in between, also where the budget is the default one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal

from ._compile import compiling, constant
from .plan_costs import (
    ROW_BYTES,
    HeadProblem,
    Work,
    bias_bytes,
    cast_bytes,
    ceil_div,
    grouped_work,
    held_bytes,
    product_bytes,
    recompute_bytes,
    recompute_work,
    reference_bytes,
    tile_bytes,
)

Design = Literal["D0", "D1", "D2", "D3"]

DESIGNS: tuple[Design, ...] = ("D0", "D1", "D2", "D3")

DEFAULT_BUDGET_BYTES = 64 << 20
"""Budget where the caller names none; exceeded only if the smallest workable plan needs more."""

CHUNK_COLUMNS = 4096
"""Vocabulary columns per GEMM: below about 2000 the per-call cost of 16-bit GEMMs shows, above 4096 nothing is gained."""

SMALLEST_CHUNK = 256
SMALLEST_ROW_BLOCK = 64
MAX_UNBUFFERED_GROUPS = 4
"""A 16-bit dW may be summed over this many groups in its own dtype; beyond it needs a float32 accumulator, or D0."""


@dataclass(frozen=True)
class Rejected:
    """A design that was not taken.

    Attributes:
        design: which.
        reason: why.
        seconds: its predicted cost, where it could have run.
    """

    design: Design
    reason: str
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """How a call will run. ``str(plan)`` is the text that a log wants.

    Attributes:
        design: ``"D0"`` to ``"D3"``.
        vocab_chunk: vocabulary columns per GEMM.
        row_block: rows per GEMM; D1 and D2: the most rows whose logits are kept at a time.
        groups: D1: ranges of units kept together; D2: every unit by itself; D0 and D3: empty.
        float32_weight_gradient: D1 and D2 with a 16-bit head: dW is summed in a float32 buffer.
        flops: of all GEMM calls, forward and backward.
        scratch_bytes: predicted peak of what is allocated besides inputs, outputs and gradients.
        kept_rows: D3: rows whose logits are kept.
        bytes_moved: to and from memory, if no cache held anything.
        seconds: predicted cost at the nominal rates of :data:`fastpref.plan_costs.DEVICES`; good for comparing plans of one problem.
        rejected: the other designs and why they were not taken.
    """

    design: Design
    vocab_chunk: int
    row_block: int
    groups: tuple[tuple[int, int], ...]
    float32_weight_gradient: bool
    flops: int
    scratch_bytes: int
    kept_rows: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    rejected: tuple[Rejected, ...] = ()

    def __str__(self) -> str:
        what = {
            "D0": "logits recomputed in backward",
            "D1": f"{len(self.groups)} group(s) with resident logits",
            "D2": f"{len(self.groups)} unit(s) with unscaled gradients",
            "D3": f"logits of {self.kept_rows} rows kept for backward, the others recomputed",
        }[self.design]
        lines = [
            f"{self.design}: {what}, vocabulary chunks of {self.vocab_chunk}, row blocks of {self.row_block}, "
            f"{self.flops / 1e9:.1f} GFLOP, {self.bytes_moved / 1e9:.2f} GB moved, "
            f"{self.scratch_bytes / 2**20:.1f} MiB of scratch, cost {1e3 * self.seconds:.3g} ms at nominal rates"
        ]
        for other in self.rejected:
            cost = "" if other.seconds is None else f" ({1e3 * other.seconds:.3g} ms)"
            lines.append(f"  not {other.design}: {other.reason}{cost}")
        return "\n".join(lines)


def even_chunk(total: int, limit: int) -> int:
    """The size of equal chunks, a multiple of 64, none above ``limit`` (itself a multiple of 64) where ``total`` is above it."""
    if total <= limit:
        return max(total, 1)
    count = ceil_div(total, limit)
    return min(limit, 64 * ceil_div(ceil_div(total, count), 64))


def _tilings(problem: HeadProblem) -> list[tuple[int, int]]:
    """The chunk sizes and row blocks that are tried."""
    rows, largest = max(problem.sweep_rows, 1), _chunk_columns(problem)
    chunks = {even_chunk(problem.vocab, c) for c in (CHUNK_COLUMNS, 2048, 1024, 512, SMALLEST_CHUNK) if c <= largest}
    blocks = {even_chunk(rows, block) for block in (1 << 30, 4096, 1024, 256, SMALLEST_ROW_BLOCK)}
    return [(chunk, block) for chunk in sorted(chunks, reverse=True) for block in sorted(blocks, reverse=True)]


def _limit(budget_bytes: int | None) -> int:
    return DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes


def _recompute(problem: HeadProblem, chunk: int, block: int, kept: int = 0, design: Design = "D0") -> Plan:
    work = recompute_work(problem, ceil_div(problem.vocab, chunk), block, kept)
    if problem.tiles and kept:
        work += Work(0, 2 * problem.tiles.kept_bytes(kept, problem.vocab, softcap=problem.softcap))
    scratch = recompute_bytes(problem, chunk, block, kept)
    return _plan(design, problem, work, scratch, chunk, block, kept_rows=kept)


def _plan(
    design: Design,
    problem: HeadProblem,
    work: Work,
    scratch: int,
    chunk: int,
    block: int,
    *,
    groups: Sequence[tuple[int, int]] = (),
    float32: bool = False,
    kept_rows: int = 0,
) -> Plan:
    seconds = work.seconds(problem)
    return Plan(
        design, chunk, block, tuple(groups), float32, work.flops, scratch, kept_rows, work.bytes_moved, seconds
    )  # fmt: skip


def plan_recompute(problem: HeadProblem, budget_bytes: int | None) -> Plan:
    """D0 within the budget. Raises ``ValueError`` where a named budget is below the smallest workable plan."""
    tilings = _tilings(problem)
    fits = [t for t in tilings if _scratch(problem, t) <= _limit(budget_bytes)]
    if not fits:
        smallest = min(tilings, key=lambda t: _scratch(problem, t))
        if budget_bytes is not None:
            raise ValueError(
                f"budget_bytes: expected at least {_scratch(problem, smallest)} for T={problem.rows}, "
                f"H={problem.hidden}, V={problem.vocab}, found {budget_bytes}"
            )
        fits = [smallest]
    return min((_recompute(problem, *t) for t in fits), key=lambda plan: plan.seconds)


def plan_kept(problem: HeadProblem, budget_bytes: int | None) -> Plan | str:
    """D3 within the budget, or the reason why not."""
    if not problem.gradients:
        return "nothing needs a gradient"
    if problem.divergence:
        return "the objective needs a KL over the vocabulary, which keeps no logits"
    step = problem.tiles.edge if problem.tiles else 1
    plans = []
    for chunk, block in _tilings(problem):
        kept = _most(problem.rows, step, partial(_fits, problem, (chunk, block), _limit(budget_bytes)))
        if kept > 0 or problem.rows == 0:
            plans.append(_recompute(problem, chunk, block, kept, "D3"))
    if not plans:
        needed = min(_scratch(problem, t, step) for t in _tilings(problem))
        return f"the budget does not hold the logits of a row and the rest of the scratch ({needed} bytes in all)"
    return min(plans, key=lambda plan: plan.seconds)


def _scratch(problem: HeadProblem, tiling: tuple[int, int], kept: int = 0) -> int:
    return recompute_bytes(problem, tiling[0], tiling[1], kept)


def _fits(problem: HeadProblem, tiling: tuple[int, int], limit: int, kept: int) -> bool:
    return _scratch(problem, tiling, kept) <= limit


def _most(limit: int, step: int, fits: Callable[[int], bool]) -> int:
    """The most rows that fit, ``limit`` or a multiple of ``step``; 0 for none. What fits, fits with fewer rows too."""
    if fits(limit):
        return limit
    low, high = 0, ceil_div(limit, step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


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


def _no_units(problem: HeadProblem) -> str | None:
    """Why the rows cannot be run unit by unit, or ``None`` if they can."""
    if not problem.gradients:
        return "nothing needs a gradient"
    if not problem.scalar_loss:
        return "the call returns log-probs, whose coefficients are known in backward only"
    if problem.coupling == "batch":
        return "the objective couples all sequences of the batch"
    if problem.divergence:
        return "the objective needs a KL over the vocabulary, which keeps no logits"
    if not problem.unit_rows:
        return "the sequence boundaries are not known on the host"
    return None


def _sum_bytes(problem: HeadProblem, chunk: int, float32: bool) -> int:
    """A float32 sum of a 16-bit dW, and a product before it is added to the sum."""
    product = product_bytes(problem, chunk, split=True) if not problem.tiles else 0
    return problem.vocab * problem.hidden * problem.accumulator_bytes + product if float32 else product


def plan_resident(problem: HeadProblem, budget_bytes: int | None) -> Plan | str:
    """D1 within the budget, or the reason why not."""
    if (reason := _no_units(problem)) is not None:
        return reason
    chunk = even_chunk(problem.vocab, _chunk_columns(problem))
    fixed = problem.rows * ROW_BYTES + bias_bytes(problem) + cast_bytes(problem, chunk)
    narrow = problem.weight_gradient and problem.weight_itemsize == 2
    choices = (False, True) if narrow else (False,)
    for float32 in (True,) if problem.main_grad and problem.weight_gradient else choices:
        total = fixed + _sum_bytes(problem, chunk, float32)
        room = _limit(budget_bytes) - total
        most = _most(problem.rows, 1, lambda rows: _held(problem, chunk, rows) <= room)  # noqa: B023  # called at once
        groups = group_units(problem.unit_rows, most)
        if groups is None or (not float32 and narrow and len(groups) > MAX_UNBUFFERED_GROUPS):
            continue
        blocks = [sum(problem.unit_rows[a:b]) for a, b in groups]
        work = grouped_work(problem, ceil_div(problem.vocab, chunk), [b for b in blocks if b])
        if problem.weight_gradient:
            item = 4 if float32 else problem.weight_itemsize
            work += Work(0, (2 * len(groups) - 1) * problem.vocab * problem.hidden * item)
        work += Work(groups=len(groups))
        scratch = total + _held(problem, chunk, max(blocks))
        return _plan("D1", problem, work, scratch, chunk, max(*blocks, 1), groups=groups, float32=float32)
    needed = total + _held(problem, chunk, max(problem.unit_rows))
    return (
        f"the budget does not hold the logits of the largest unit and the rest of the scratch ({needed} bytes in all)"
    )


def _chunk_columns(problem: HeadProblem) -> int:
    return problem.tiles.chunk_columns if problem.tiles else CHUNK_COLUMNS


def _held(problem: HeadProblem, chunk: int, rows: int, *, exact: bool = False) -> int:
    """What D1 and D2 hold for ``rows`` rows at a time. ``exact``: dX in the accumulation dtype."""
    other = reference_bytes(problem, rows, chunk)
    if not problem.tiles:
        return rows * held_bytes(problem, chunk) + other
    copies = (2 if problem.stacked else 1) * problem.hidden * problem.itemsize * 2
    copies += problem.reference_hidden * problem.itemsize if problem.online_reference else 0
    dx = problem.hidden * (problem.accumulator_bytes if exact else problem.itemsize)
    swept = rows * (2 if problem.stacked else 1)
    sums = problem.tiles, rows, swept, chunk, rows, rows, True
    return rows * (copies + dx) + other + tile_bytes(problem, *sums)


def plan_unscaled(problem: HeadProblem, budget_bytes: int | None) -> Plan | str:
    """D2 within the budget, or the reason why not."""
    if (reason := _no_units(problem)) is not None:
        return reason
    if not problem.known_direction:
        return (
            "the direction of a unit's gradient is not known before its end "
            "(that of margin-only losses of pairs and of losses of single sequence log-probs is)"
        )
    units, largest = problem.unit_rows, max(problem.unit_rows)
    chunk = even_chunk(problem.vocab, _chunk_columns(problem))
    narrow = problem.weight_itemsize < problem.accumulator_bytes
    fixed = problem.rows * ROW_BYTES + bias_bytes(problem) + cast_bytes(problem, chunk)
    if problem.bias_gradient:
        fixed += problem.vocab * problem.accumulator_bytes
    if problem.hidden_gradient:
        fixed += largest * problem.hidden * problem.accumulator_bytes * 2
    if problem.weight_gradient:
        # The sum over units is dW itself where its dtype is that of sums and it is handed out; a single unit needs no other.
        sums = (narrow or problem.main_grad) + (len(units) > 1)
        fixed += sums * problem.vocab * problem.hidden * problem.accumulator_bytes
        fixed += product_bytes(problem, chunk, split=True) if not problem.tiles else 0
    room = _limit(budget_bytes) - fixed
    most = _most(max(largest, 1), 1, lambda rows: _held(problem, chunk, rows, exact=True) <= room)
    if most < 1:
        needed = fixed + _held(problem, chunk, 1, exact=True)
        return f"the budget does not hold the logits of a row and sums of unscaled gradients ({needed} bytes in all)"
    block = max(ceil_div(largest, ceil_div(max(largest, 1), most)), 1)
    blocks = [min(block, rows - start) for rows in units for start in range(0, rows, block)]
    work = grouped_work(problem, ceil_div(problem.vocab, chunk), blocks)
    if problem.weight_gradient:
        sums = sum(max(2 * ceil_div(rows, block) - 1, 0) + (3 if len(units) > 1 else 2) for rows in units)
        work += Work(0, sums * problem.vocab * problem.hidden * problem.accumulator_bytes)
    work += Work(groups=len(units))
    groups = [(i, i + 1) for i in range(len(units))]
    float32 = problem.weight_gradient and narrow
    scratch = fixed + _held(problem, chunk, block, exact=True)
    return _plan("D2", problem, work, scratch, chunk, block, groups=groups, float32=float32)


def make_plan(problem: HeadProblem, budget_bytes: int | None = None, design: str | None = None) -> Plan:
    """The cheapest plan (predicted seconds) that the objective allows and the budget holds.

    Args:
        problem: the shapes and traits.
        budget_bytes: scratch allowed; ``None`` for :data:`DEFAULT_BUDGET_BYTES`, or the least that works if that is more.
        design: force ``"D0"`` to ``"D3"``.

    Returns:
        The plan; its ``rejected`` has every other design with its reason, and its cost where it could have run.

    Raises:
        TypeError: ``budget_bytes`` is not a whole number.
        ValueError: the budget is too small, ``design`` is unknown, or it was forced where it is not valid or does not fit.
    """
    if budget_bytes is not None and not isinstance(budget_bytes, int):
        raise TypeError(f"budget_bytes: expected a whole number of bytes, found {budget_bytes!r}")
    if budget_bytes is not None and budget_bytes <= 0:
        raise ValueError(f"budget_bytes: expected a number above 0, found {budget_bytes}")
    if design not in (None, *DESIGNS):
        raise ValueError(f"plan: expected one of {', '.join(map(repr, DESIGNS))}, found {design!r}")
    if compiling():  # torch.compile takes plain values and classes for constants, but not a HeadProblem or costs
        plain = {name: getattr(problem, name) for name in _PROBLEM_FIELDS}
        # A size that torch.compile keeps open becomes the one at hand: another compiles again.
        for name in _SIZE_FIELDS:
            plain[name] = operator.index(plain[name])
        for name in _COSTS_FIELDS:
            costs = plain[name]
            plain[name] = None if costs is None else (type(costs), tuple(costs))
        return _choose_constant(budget_bytes, design, **plain)
    return _choose(problem, budget_bytes, design)


_PROBLEM_FIELDS = tuple(field.name for field in fields(HeadProblem))
_COSTS_FIELDS = ("tiles", "reference_tiles")
_SIZE_FIELDS = tuple(field.name for field in fields(HeadProblem) if field.type == "int")


@constant
def _choose_constant(budget_bytes: int | None, design: str | None, **problem: Any) -> Plan:
    for name in _COSTS_FIELDS:
        if problem[name] is not None:
            kind, values = problem[name]
            problem[name] = kind(*values)
    return _choose(HeadProblem(**problem), budget_bytes, design)


@lru_cache(maxsize=256)  # a training loop asks for the same few shapes again and again
def _choose(problem: HeadProblem, budget_bytes: int | None, design: str | None) -> Plan:
    found = dict(_candidates(problem, budget_bytes))
    plans = {name: plan for name, plan in found.items() if isinstance(plan, Plan)}
    if design is not None:
        if design not in plans:
            reason = found[design]
            # Only D0 needs a budget of some size and nothing else: its reason is an error of that argument.
            raise ValueError(str(reason) if design == "D0" else f"plan: {design!r} cannot be used: {reason}")
        chosen = plans[design]
    else:
        allowed = [plan for plan in plans.values() if not (problem.float16 and plan.groups)]
        if not allowed:
            raise ValueError(str(found["D0"]))
        chosen = min(allowed, key=lambda plan: plan.seconds)
    rejected = [_rejected(name, found[name], chosen, design is not None) for name in DESIGNS if name != chosen.design]
    return replace(chosen, rejected=tuple(rejected))


def _candidates(problem: HeadProblem, budget_bytes: int | None) -> Iterator[tuple[str, Plan | str]]:
    """Every design with its best plan, or the reason why it has none."""
    try:
        yield "D0", plan_recompute(problem, budget_bytes)
    except ValueError as error:
        yield "D0", str(error)
    yield "D1", plan_resident(problem, budget_bytes)
    yield "D2", plan_unscaled(problem, budget_bytes)
    yield "D3", plan_kept(problem, budget_bytes)


def _rejected(name: Design, found: Plan | str, chosen: Plan, forced: bool) -> Rejected:
    if isinstance(found, str):
        return Rejected(name, found)
    if forced:
        return Rejected(name, f"{chosen.design} was asked for", found.seconds)
    if found.seconds < chosen.seconds:
        return Rejected(name, "float16 gradients are rounded before a loss scaler's factor reaches them", found.seconds)
    return Rejected(name, "costs more", found.seconds)
