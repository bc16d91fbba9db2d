"""Rows with a temperature of their own in the four row primitives of every backend, against float64 and against the scalar."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastpref.backends import Backend, LogitTransform, RowState
from fastpref.backends.base import STATISTICS, Direction

from . import test_row_divergence as divergence
from . import test_row_primitives as primitives
from . import test_row_statistics as statistics
from .cases import DTYPES, ROWS, assert_grad, assert_stats, draw, draw_coefficients, fold
from .test_row_primitives import NATIVE, oracle_lse, use

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])
BASES = {
    "plain": LogitTransform(),
    "negative scale": LogitTransform(logit_scale=-1.5),
    "softcap": LogitTransform(softcap=5.0),
    "all": LogitTransform(logit_scale=1.5, softcap=20.0, temperature=1.3),
}
bases = pytest.mark.parametrize("name", BASES)


@pytest.fixture(params=["eager", *NATIVE, "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


def with_rows(base: LogitTransform, rows: int = ROWS) -> LogitTransform:
    """A factor for each row; what the ignored row of ``draw`` has is never used."""
    inverse = torch.linspace(0.5, 2.5, rows)
    inverse[-2] = torch.nan
    return LogitTransform(base.logit_scale, base.softcap, base.temperature, inverse)


def alone(t: LogitTransform, row: int) -> LogitTransform:
    """The scalar transform of one row, for the oracle, which knows no other."""
    assert t.inv_temperature is not None
    return LogitTransform(t.logit_scale, t.softcap, t.temperature / t.inv_temperature[row].item())


def active(targets: Tensor) -> list[int]:
    return (targets >= 0).nonzero().squeeze(1).tolist()


@dtypes
@bases
@pytest.mark.parametrize("cols", [1, 77, 2085])
def test_statistics_and_gradient(backend, dtype, name, cols):
    logits, targets = draw(cols, dtype)
    t, (onehot, softmax) = with_rows(BASES[name]), draw_coefficients(ROWS)
    cuts = (cols // 3,) if cols > 2 else ()
    found = statistics.fold(backend, logits, targets, t, cuts)
    lse = torch.zeros(ROWS)
    for r in active(targets):
        lse[r] = oracle_lse(logits[r : r + 1], targets[r : r + 1], alone(t, r))
    out = primitives.gradient(backend, logits, targets, lse, onehot, softmax, t)
    assert (out[-2] == 0).all()
    for r in active(targets):
        one, own = slice(r, r + 1), alone(t, r)
        assert_stats(logits[one], targets[one], own, found.logps[one], found.lse[one])
        of_row = {n: getattr(found, n)[one] for n in STATISTICS}
        statistics.assert_statistics(
            logits[one], targets[one], own, type(found)(found.logps[one], found.lse[one], **of_row)
        )
        assert_grad(logits[one], targets[one], lse[one], onehot[one], softmax[one], own, out[one])


@dtypes
@directions
@bases
def test_divergence(backend, dtype, name, direction: Direction):
    logits, ref_logits, targets = divergence.pair(1000, dtype)
    t, made = with_rows(BASES[name]), divergence.coefficients(ROWS)
    state = divergence.fold(backend, logits, ref_logits, targets, direction, t, (333,))
    rows = [torch.zeros(ROWS) for _ in range(3)]
    for r in active(targets):
        one, own = slice(r, r + 1), alone(t, r)
        divergence.assert_kl(logits[one], ref_logits[one], targets[one], direction, own, state.rows(one))
        per_row = divergence.per_row(logits[one], ref_logits[one], targets[one], direction, own)
        for whole, part in zip(rows, per_row, strict=True):
            whole[one] = part
    out = divergence.gradient(backend, logits, ref_logits, targets, (*rows, *made), direction, t)
    for r in active(targets):
        one = slice(r, r + 1)
        of_row = tuple(value[one] for value in (*rows, *made))
        divergence.assert_gradient(logits[one], ref_logits[one], targets[one], of_row, direction, alone(t, r), out[one])


@dtypes
@directions
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_equal_temperatures_have_the_bits_of_the_scalar(native, dtype, softcap, direction: Direction):
    logits, ref_logits, targets = divergence.pair(3001, dtype)
    scalar = LogitTransform(softcap=softcap, temperature=0.5)
    own = LogitTransform(softcap=softcap, inv_temperature=torch.full((ROWS,), 2.0))
    lse, (onehot, softmax) = oracle_lse(logits, targets, scalar), draw_coefficients(ROWS)
    rows = (*divergence.per_row(logits, ref_logits, targets, direction, scalar), *divergence.coefficients(ROWS))
    kept = []
    for t in (scalar, own):
        state = RowState.start(ROWS, logits.device, torch.float32, STATISTICS)
        native.row_stats(logits, targets, state, col0=0, transform=t)
        both = divergence.fold(native, logits, ref_logits, targets, direction, t)
        kept.append([
            *vars(state).values(), both.cross, both.reference.s,
            primitives.gradient(native, logits, targets, lse, onehot, softmax, t),
            divergence.gradient(native, logits, ref_logits, targets, rows, direction, t),
        ])  # fmt: skip
    for a, b in zip(*kept, strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def test_blocks_and_selections_take_their_rows(backend):
    logits, targets = draw(300, torch.float32)
    t = with_rows(BASES["softcap"])
    whole = fold(backend, logits, targets, t)
    for chosen in (slice(2, 5), torch.tensor([5, 0, 3])):
        part = fold(backend, logits[chosen], targets[chosen], t.rows(chosen))
        assert torch.equal(part.s, whole.s[chosen])
    assert t.rows(None) is t
    assert BASES["all"].rows(slice(1)) is BASES["all"]
