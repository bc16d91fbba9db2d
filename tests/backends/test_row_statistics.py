"""The statistics that ``row_stats`` can be asked for beside the log-probability, of every backend, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastpref.backends import Backend, LogitTransform, RowState
from fastpref.backends.base import STATISTICS, RowStatistics

from .cases import COLUMNS, DTYPES, EPS, EXTREME, PLAIN, TRANSFORMS, assert_within, draw, transformed
from .test_row_primitives import NATIVE, use

FLOATING = ("entropy", "log_sum_sq_probs", "mean_logit")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture(params=["eager", *NATIVE, "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


def torch_statistics(x: Tensor, targets: Tensor, t: LogitTransform) -> dict[str, Tensor]:
    """By plain torch in the dtype of ``x``; the oracle if that is float64. Ignored rows give 0, and so does 0 log 0."""
    z = transformed(x, t)
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    found = {
        "entropy": -(p * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1),
        "log_sum_sq_probs": (2 * log_p).logsumexp(-1),
        "mean_logit": z.mean(-1),
    }
    return {name: value.masked_fill(targets < 0, 0.0) for name, value in found.items()}


def fold(
    backend: Backend, logits: Tensor, targets: Tensor, t: LogitTransform = PLAIN, cuts: tuple[int, ...] = (),
    stats: tuple[str, ...] = STATISTICS,
) -> RowStatistics:  # fmt: skip
    """The finished statistics of logits taken in chunks that end at ``cuts``."""
    state = RowState.start(logits.shape[0], logits.device, torch.float32, stats)
    edges = [0, *cuts, logits.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        backend.row_stats(logits[:, start:end], targets, state, col0=start, transform=t)
    return state.statistics(targets, logits.shape[1])


def assert_statistics(logits: Tensor, targets: Tensor, t: LogitTransform, found: RowStatistics) -> None:
    """The precision rule, with a floor of a few roundings of what the statistic is made of."""
    exact, usual = (torch_statistics(x, targets, t) for x in (logits.double(), logits.float()))
    z = transformed(logits.double(), t).masked_fill((targets < 0)[:, None], 0.0)
    finite = z.masked_fill(z.isinf(), 0.0)
    # A transform's constants are rounded to fp32, and so is every z.
    rounded = torch.zeros(()) if t == PLAIN else EPS * finite.abs().amax(-1)
    for name in FLOATING:
        floor = 8 * EPS * (1 + exact[name].nan_to_num(0.0, 0.0, 0.0).abs()) + 2 * rounded
        if name == "mean_logit":  # the terms may cancel
            floor = floor + 4 * EPS * finite.abs().mean(-1)
        assert_within(name, getattr(found, name), exact[name], usual[name], 2.0, floor.expand_as(exact[name]))
    active = targets >= 0
    height = logits if t.scale > 0 else -logits
    expected = height[active].float().argmax(-1)
    assert found.argmax.dtype == torch.int64
    assert torch.equal(found.argmax[active], expected)
    assert (found.argmax[~active] == 0).all()


@dtypes
@pytest.mark.parametrize("cols", COLUMNS)
def test_values(backend, dtype, cols):
    logits, targets = draw(cols, dtype)
    assert_statistics(logits, targets, PLAIN, fold(backend, logits, targets))


@dtypes
@pytest.mark.parametrize("cols", [1, 77, 2085])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(backend, dtype, cols, name):
    logits, targets = draw(cols, dtype, scale=6.0)
    assert_statistics(logits, targets, TRANSFORMS[name], fold(backend, logits, targets, TRANSFORMS[name]))


@dtypes
@pytest.mark.parametrize("cuts", [(1,), (2048,), (17, 400, 401, 3000)], ids=str)
@pytest.mark.parametrize("name", ["plain", "softcap"])
def test_chunks_equal_the_whole(backend, dtype, cuts, name):
    t = TRANSFORMS.get(name, PLAIN)
    logits, targets = draw(4097, dtype)
    logits[2, :400] = -torch.inf
    targets[2], targets[3] = 400, 16
    assert_statistics(logits, targets, t, fold(backend, logits, targets, t, cuts))


@dtypes
@pytest.mark.parametrize("chunk", [None, 701])
@pytest.mark.parametrize("name", EXTREME)
def test_extreme_values(backend, dtype, name, chunk):
    build, wanted = EXTREME[name]
    logits = build().to(dtype).repeat(len(wanted), 1)
    cuts = () if chunk is None else tuple(range(chunk, logits.shape[1], chunk))
    targets = torch.tensor(wanted)
    assert_statistics(logits, targets, PLAIN, fold(backend, logits, targets, cuts=cuts))


@dtypes
@pytest.mark.parametrize("places", [(3, 900), (0, 1), (2047, 2048), (5, 4096), (4095, 4096)], ids=str)
@pytest.mark.parametrize("cuts", [(), (900,), (4096,)], ids=str)
def test_argmax_is_the_first_of_equals(backend, dtype, places, cuts):
    logits = draw(4097, dtype, rows=2)[0]
    logits[:, places] = 60.0
    targets = torch.zeros(2, dtype=torch.int64)
    assert (fold(backend, logits, targets, cuts=cuts).argmax == places[0]).all()


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.3, 2.5, 30.0])
@pytest.mark.parametrize("t", [PLAIN, *(TRANSFORMS[n] for n in ("negative scale", "softcap"))], ids=str)
def test_argmax_of_rows_of_many_blocks(backend, t, spread):
    """Flat rows, whose lanes' sums say little about their largest term, and steep ones; the largest in any block."""
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(12, 9001, generator=g) * spread
    for r in range(12):
        logits[r, 750 * r] += (1e-3, 1.0, 0.0)[r % 3]
    targets = torch.zeros(12, dtype=torch.int64)
    height = logits if t.scale > 0 else -logits
    for cuts in ((), (2048, 5000)):
        assert torch.equal(fold(backend, logits, targets, t, cuts).argmax, height.argmax(-1))


def test_excluded_logits_in_some_blocks_only(backend):
    """The entropy of blocks with and without -inf, whichever comes first."""
    logits, targets = draw(9001, torch.float32)
    logits[0, 2100:2300], logits[1, :3], logits[2, 9000], logits[3] = (-torch.inf,) * 4
    logits[3, 5000:] = 1.0
    targets[:4] = torch.tensor([0, 5, 7, 8000])
    for cuts in ((), (4000,)):
        assert_statistics(logits, targets, PLAIN, fold(backend, logits, targets, cuts=cuts))


def test_argmax_sees_through_a_saturated_softcap(backend):
    """Both reach the cap in float32; the larger logit has the larger z all the same."""
    logits = torch.tensor([[200.0, 300.0, 250.0]])
    assert fold(backend, logits, torch.tensor([0]), LogitTransform(softcap=2.0)).argmax.item() == 1


def test_argmax_of_constant_and_excluded_rows(backend):
    logits = torch.full((3, 3000), -torch.inf)
    logits[0], logits[1, 2999], logits[2, 7:] = 0.0, -5.0, -1e4
    found = fold(backend, logits, torch.tensor([0, 2999, 8]), cuts=(6, 2500))
    assert found.argmax.tolist() == [0, 2999, 7]
    assert found.mean_logit.tolist() == [0.0, -torch.inf, -torch.inf]


@pytest.mark.parametrize("stats", [*((name,) for name in STATISTICS), ("argmax", "log_sum_sq_probs"), ()], ids=str)
def test_what_is_asked_for_is_what_comes_and_changes_no_log_probability(backend, stats):
    logits, targets = draw(4097, torch.float32)
    alone, all_of_them = fold(backend, logits, targets, stats=stats), fold(backend, logits, targets)
    assert {name for name in STATISTICS if getattr(alone, name) is not None} == set(stats)
    for name in ("logps", "lse", *stats):
        assert torch.equal(getattr(alone, name), getattr(all_of_them, name)), name


@dtypes
def test_ignored_rows_are_left_alone(backend, dtype):
    logits, targets = draw(130, dtype)
    ignored = targets < 0
    state = RowState.start(len(targets), logits.device, torch.float32, STATISTICS)
    extra = (state.s2, state.sd, state.total, state.top, state.argmax)
    for value, tensor in enumerate(extra, 3):
        tensor[ignored] = value
    backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)
    assert [tensor[ignored].tolist() for tensor in extra] == [[3], [4], [5], [6], [7]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("cols", [1, 40, 5000])
def test_undefined_rows_become_nan_in_every_floating_statistic(backend, cols, bad):
    logits, targets = draw(cols, torch.float32, rows=4)
    targets[:] = 0
    logits[:3] = 1.0
    logits[0, 0] = logits[1, cols // 2] = logits[2, cols - 1] = bad
    logits[3] = 1.0
    found = fold(backend, logits, targets)
    for name in FLOATING:
        assert getattr(found, name).isnan().tolist() == [True, True, True, False], name


def test_a_row_that_is_certain_has_an_entropy_near_0(backend):
    """Where the target's probability is 1 - 1e-4 the entropy keeps its digits, and it is never negative."""
    logits = torch.zeros(3, 64)
    logits[:, 5] = torch.tensor([13.0, 30.0, 200.0])
    targets = torch.full((3,), 5)
    found = fold(backend, logits, targets, cuts=(3,))
    exact = torch_statistics(logits.double(), targets, PLAIN)
    assert (found.entropy >= 0).all()
    torch.testing.assert_close(found.entropy.double(), exact["entropy"], rtol=1e-3, atol=3e-7)
    torch.testing.assert_close(found.log_sum_sq_probs.double(), exact["log_sum_sq_probs"], rtol=1e-3, atol=3e-7)
