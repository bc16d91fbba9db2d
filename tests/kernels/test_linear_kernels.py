"""The kernels of a linear head against plain PyTorch in float64, in the interpreter, every access checked and counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fastpref.backends.base import STATISTICS, RowState

from ..backends.linear_cases import BF16, CASES, F16, F32, Case
from ..emulation import require_triton, watch
from ..oracle import assert_precise

require_triton()

from fastpref.kernels import linear_grad, linear_stats, linear_tiling, scale_rows, tiling  # noqa: E402
from fastpref.kernels.kept_layout import SLOT, kept_layout  # noqa: E402

SHAPES = {
    "one of each": (1, 1, 1),
    "small": (7, 31, 31),
    "even": (64, 64, 512),
    "odd": (33, 100, 811),
    "long": (3, 16, 32768),
}


@pytest.fixture
def launches():
    with watch() as seen:
        yield seen


def options(case: Case) -> dict[str, object]:
    """The kernels' form of a case's transform."""
    t = case.transform
    cap = None if t.softcap is None else t.softcap / t.temperature
    return {"scale": t.scale, "cap": cap, "row_scale": t.inv_temperature}


def run_stats(case: Case, stats: tuple[str, ...] = (), **more) -> RowState:
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32, stats)
    linear_stats.linear_stats(hidden, weight, bias, targets, **vars(state), **options(case), **more)
    return state


def keep(case: Case) -> tuple[Tensor, Tensor | None]:
    """Views for what is kept of a case's logits."""
    layout = kept_layout(*case.dtypes, case.vocab, case.softcap is not None)
    return layout.views(torch.empty(layout.row_bytes() * case.rows, dtype=torch.uint8), case.rows)


def assert_statistics(case: Case, state: RowState, stats: tuple[str, ...] = STATISTICS) -> None:
    found, live = state.statistics(case.tensors["targets"], case.vocab), case.tensors["targets"] >= 0
    oracle, plain = case.plain(torch.float64), case.plain(F32)
    for what in ("logps", "lse", *stats):
        if what == "argmax":
            assert torch.equal(found.argmax[live], oracle["argmax"][live])
        else:
            value = getattr(found, what)
            assert_precise(value[live], oracle[what][live], plain[what][live], 2.0, what=what)
            assert not value[~live].any()


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_statistics(launches, name) -> None:
    assert_statistics(CASES[name], run_stats(CASES[name], STATISTICS))


@pytest.mark.parametrize(
    ("shape", "dtype"), [*((shape, BF16) for shape in SHAPES), ("odd", F32), ("odd", F16)], ids=str
)
def test_shapes(launches, dtype, shape) -> None:
    rows, width, vocab = SHAPES[shape]
    case = Case(rows=rows, width=width, vocab=vocab, dtypes=(dtype, dtype))
    assert_statistics(case, run_stats(case), ())
    assert_statistics(case, run_stats(case, segment=max(2048, vocab)), ())  # one program for the whole vocabulary


def test_each_statistic_by_itself(launches) -> None:
    case = CASES["bf16, softcap, temperature per token"]
    for name in STATISTICS:
        assert_statistics(case, run_stats(case, (name,)), (name,))


def test_ignored_rows_are_not_read_and_stay(launches) -> None:
    case = Case(rows=130, width=40, vocab=300)
    t = case.tensors
    t["targets"][[0, 5]] = -1
    t["targets"][64:128] = -1  # a whole tile of rows
    ignored = t["targets"] < 0
    t["hidden"][ignored] = torch.nan
    state = RowState.start(case.rows, t["hidden"].device, F32, STATISTICS)
    for value in vars(state).values():
        value[ignored] = 7
    linear_stats.linear_stats(*case.operands, **vars(state), **options(case))
    assert all((value[ignored] == 7).all() for value in vars(state).values())
    stats, merge = launches
    assert not stats.reads("x_ptr")[ignored.numpy()].any()
    for name in ("m_ptr", "s_ptr"):
        assert not stats.writes(name)[:, ignored.numpy()].any()
        assert not merge.reads(name)[:, ignored.numpy()].any()
    case.tensors["hidden"] = t["hidden"].masked_fill(ignored[:, None], 0)
    assert_statistics(case, state)


def test_bits_depend_on_no_neighbour_and_no_order_of_programs() -> None:
    case = Case(rows=80, width=40, vocab=300)
    runs = []
    for seed in (None, 1):
        with watch(seed):
            runs.append(run_stats(case, STATISTICS))
    for state, (name, value) in itertools.product(runs[1:], vars(runs[0]).items()):
        assert torch.equal(getattr(state, name), value), name
    some = Case(rows=13, width=40, vocab=300)
    last = slice(80 - 13, 80)
    some.tensors.update({k: v[last] if v.shape[0] == 80 else v for k, v in case.tensors.items()})
    alone = run_stats(some, STATISTICS)
    assert all(torch.equal(value, getattr(runs[0], name)[last]) for name, value in vars(alone).items())
    plain = run_stats(case, kept=keep(case))
    assert torch.equal(plain.m, runs[0].m)
    assert torch.equal(plain.s, runs[0].s)


def test_shards_of_the_vocabulary_merge(launches) -> None:
    case = Case(vocab=601)
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32, STATISTICS)
    edges = [0, 270, 277, 601]
    for first, last in itertools.pairwise(edges):
        shard = (hidden, weight[first:last], bias[first:last], targets)
        linear_stats.linear_stats(*shard, **vars(state), col0=first, **options(case))
    assert_statistics(case, state)


def test_undefined_rows_are_nan_and_leave_the_others_alone(launches) -> None:
    case = Case(rows=20, width=40, vocab=300)
    good = run_stats(case, STATISTICS).statistics(case.tensors["targets"], case.vocab)
    case.tensors["hidden"] = case.tensors["hidden"].clone()
    case.tensors["hidden"][3, 5], case.tensors["hidden"][11, 0] = torch.nan, torch.inf
    found = run_stats(case, STATISTICS).statistics(case.tensors["targets"], case.vocab)
    others = [r for r in range(case.rows) if r not in (3, 11)]
    for what in ("logps", "lse", "entropy", "log_sum_sq_probs", "mean_logit"):
        value = getattr(found, what)
        assert value[[3, 11]].isnan().all(), what
        assert torch.equal(value[others], getattr(good, what)[others]), what


def test_excluded_words_and_large_logits(launches) -> None:
    case = Case(rows=20, width=40, vocab=601)
    bias = case.tensors["bias"]
    bias[::2] = -torch.inf
    bias[:520] = -torch.inf  # two segments of nothing
    case.tensors["targets"] = torch.arange(521, 521 + 2 * case.rows, 2)
    case.tensors["hidden"] = case.tensors["hidden"] * 64
    state = run_stats(case, ("entropy", "argmax"))
    oracle, found = case.plain(torch.float64), state.statistics(case.tensors["targets"], case.vocab)
    p = (case.raw(torch.float64)).softmax(-1)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(found.logps.double(), oracle["logps"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax, oracle["argmax"])
    nothing = Case(rows=3, width=8, vocab=300)
    nothing.tensors["bias"][:] = -torch.inf
    state = run_stats(nothing)
    assert (state.m == -torch.inf).all()
    assert (state.s == 0).all()


def test_target_outside_the_vocabulary_is_nan_and_never_read(launches) -> None:
    case = Case(rows=3, width=8, vocab=300)
    case.tensors["targets"] = torch.tensor([300, 2**40, 2**32 + 1])
    state = run_stats(case)
    assert state.zt.isnan().all()
    assert state.s.isfinite().all()


def test_nothing_to_do(launches) -> None:
    case = Case(rows=0, width=8, vocab=30)
    run_stats(case)
    empty = torch.empty(0)
    linear_grad.linear_grad(*case.operands, empty, empty, empty, torch.empty(0, 30))
    scale_rows.scale_rows(torch.empty(0, 8), empty, torch.empty(0, 8))
    assert launches == []


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_no_logit_is_stored(launches) -> None:
    case = Case(rows=130, width=64, vocab=571, bias=False)
    run_stats(case)
    stats, merge = launches
    segments, tiles = 3, linear_tiling.linear_tiling(narrow=True)
    assert stats.bytes_stored() == case.rows * (segments * 8 + 4)
    assert merge.bytes_stored() == case.rows * 8
    assert merge.bytes_loaded() == case.rows * (8 + segments * 8 + 8)
    row_tiles, column_tiles = -(-case.rows // tiles.rows), -(-case.vocab // tiles.columns)
    # From the L2 cache but for the first time: the head once per tile of rows, the hidden states once per tile of columns.
    assert (stats.reads("w_ptr") == row_tiles).all()
    assert (stats.reads("x_ptr") == column_tiles).all()


@pytest.mark.parametrize(
    ("dtype", "softcap", "size"), [(BF16, None, 2), (F16, None, 2), (BF16, 5.0, 4), (F32, None, 4)]
)
def test_what_is_kept_is_stored_once(launches, dtype, softcap, size) -> None:
    case = Case(rows=20, width=40, vocab=571, dtypes=(dtype, dtype), softcap=softcap)
    kept = keep(case)
    run_stats(case, kept=kept)
    writes = launches[0].writes("kept_ptr")
    assert (writes[:, :571] == 1).all()
    assert not writes[:, 571:].any()
    assert launches[0].bytes_stored("kept_ptr") == 20 * 571 * size
    if size == 2:
        assert (launches[0].writes("reference_ptr") == 1).all()
        layout = kept_layout(dtype, dtype, 571, False)
        assert layout.row_bytes() == 576 * 2 + 9 * 4
    else:
        torch.testing.assert_close(kept[0][:, :571].double(), case.raw(torch.float64), rtol=1e-5, atol=1e-5)


# --- gradients --------------------------------------------------------------------------------------------------------


def coefficients(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Two coefficients of at most 1, and a factor, per row."""
    t = case.tensors
    return t["onehot"].clamp(-1, 1), t["softmax"].clamp(-1, 1), t["onehot"].abs() + 0.25


def exact_gradient(case: Case, dtype: torch.dtype) -> Tensor:
    """The definition by autograd, without the constant factor of dz/dx."""
    raw = case.raw(dtype).requires_grad_()
    onehot, softmax, _ = (c.to(dtype) for c in coefficients(case))
    z = case.transformed(raw)
    picked = z.gather(1, case.tensors["targets"].clamp(min=0)[:, None]).squeeze(1)
    live = case.tensors["targets"] >= 0
    ((onehot * picked - softmax * z.logsumexp(-1)) * live).sum().backward()
    slope = torch.full((case.rows,), case.transform.scale, dtype=dtype)
    if case.transform.inv_temperature is not None:
        slope = slope * case.transform.inv_temperature.to(dtype)
    return raw.grad / slope[:, None]


def run_gradient(case: Case, kept: bool, cuts: tuple[int, ...] = (), db: Tensor | None = None) -> Tensor:
    """The gradient of all columns by chunks that end at ``cuts``."""
    hidden, weight, bias, targets = case.operands
    views = keep(case) if kept else None
    state = run_stats(case, kept=views)
    logps, lse = state.finish(targets)
    onehot, softmax, factor = coefficients(case)
    narrow = case.dtypes[0] if case.dtypes[0] == case.dtypes[1] else F32
    out = torch.full((case.rows, case.vocab), torch.nan, dtype=narrow)
    for first, last in itertools.pairwise((0, *cuts, case.vocab)):
        tiles = linear_grad.kept_row_tiles(case.rows) if kept else linear_grad.row_tiles(hidden, weight)
        sums = None if db is None else torch.full((tiles, last - first), torch.nan)
        more = {"db": sums, "factor": factor, "col0": first, **options(case)}
        part = out[:, first:last]
        if views is not None:
            linear_grad.kept_grad(views, targets, lse, logps, onehot, softmax, part, **more)
        else:
            chunk = (hidden, weight[first:last], None if bias is None else bias[first:last], targets)
            linear_grad.linear_grad(*chunk, lse, onehot, softmax, part, **more)
        if db is not None:
            db[first:last] = sums.sum(0)
    return out


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradient(launches, name, kept) -> None:
    case = CASES[name]
    db = torch.empty(case.vocab)
    out = run_gradient(case, kept, db=db)
    exact, plain = exact_gradient(case, torch.float64), exact_gradient(case, F32).to(out.dtype)
    for r in range(case.rows):
        assert_precise(out[r], exact[r], plain[r], 3.0, ulps=24.0, what=f"row {r}")
    factor = coefficients(case)[2].double()
    rounding = 2.0**-8 if kept and out.dtype == BF16 else 2.0**-11 if kept and out.dtype == F16 else 2.0**-19
    wanted = (exact * factor[:, None]).sum(0)
    assert ((db - wanted).abs() <= rounding * (exact * factor[:, None]).abs().sum(0) + 1e-6).all()


@pytest.mark.parametrize("kept", [False, True])
def test_chunks_are_parts_of_the_whole(launches, kept) -> None:
    for case in (Case(), CASES["bf16, softcap"]):
        assert torch.equal(run_gradient(case, kept, (70, 264)), run_gradient(case, kept))


@pytest.mark.parametrize("kept", [False, True])
def test_silent_rows_are_zeros_and_are_not_read(launches, kept) -> None:
    case = Case(rows=140, width=40, vocab=300)
    case.tensors["targets"][[2, 70]] = -1
    for name in ("onehot", "softmax"):
        case.tensors[name][[0, 1, 131]] = 0.0
        case.tensors[name][64:128] = 0.0  # a whole tile of rows
    case.tensors["softmax"][5] = 0.0  # one of the two alone is not silent
    onehot, softmax, _ = coefficients(case)
    silent = ((case.tensors["targets"] < 0) | ((onehot == 0) & (softmax == 0))).numpy()
    out = run_gradient(case, kept, db=torch.empty(300))
    launch = launches[-1]
    assert not out[silent].any()
    assert not launch.reads("kept_ptr" if kept else "x_ptr")[silent].any()
    assert (launch.writes("out_ptr") == 1).all()
    assert out[5].count_nonzero() == 1
    if not kept:
        tiles, columns = linear_tiling.linear_tiling(narrow=True), 2
        assert (launch.reads("w_ptr") == -(-140 // tiles.rows) - 1).all()
        assert launch.reads("x_ptr")[~silent].max() == columns
    assert torch.equal(run_gradient(case, kept), out)


def test_kept_values_are_read_once_and_gradients_written_once(launches) -> None:
    case = Case(rows=70, width=40, vocab=571)
    run_gradient(case, kept=True)
    launch = launches[-1]
    assert launch.kernel == "_kept_grad"
    assert (launch.reads("kept_ptr")[:, :571] == 1).all()
    assert (launch.writes("out_ptr") == 1).all()


def test_order_of_the_programs_does_not_change_a_bit_of_a_gradient() -> None:
    case, found = Case(rows=70, width=40, vocab=300), []
    for seed in (None, 1):
        with watch(seed):
            db = torch.empty(300)
            found.append((run_gradient(case, False, db=db), run_gradient(case, True), db))
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, found[0], strict=True))


def test_probabilities_near_1_keep_their_digits(launches) -> None:
    """The target's entry is what is left of 1 - p."""
    case = Case(rows=8, width=16, vocab=300, dtypes=(F32, F32), bias=False)
    case.tensors["onehot"] = case.tensors["softmax"] = torch.ones(8)
    targets = case.tensors["targets"]
    case.tensors["weight"][targets] = 0.0
    case.tensors["weight"][targets, torch.arange(8)] = 14.0
    case.tensors["hidden"][:] = 0.0
    case.tensors["hidden"][torch.arange(8), torch.arange(8)] = 1.0
    exact = exact_gradient(case, torch.float64).gather(1, targets[:, None])
    assert (exact < 1e-3).all()
    tolerance = float(3e-6 / exact.max())  # of an lse of 14, in float32: it moves p, and 1 - p as much
    for kept in (False, True):
        torch.testing.assert_close(
            run_gradient(case, kept).gather(1, targets[:, None]).double(), exact, rtol=1e-5 + tolerance, atol=0
        )


# --- rows times a factor ----------------------------------------------------------------------------------------------


def test_scale_rows(launches) -> None:
    x = torch.randn(5, 1500, generator=torch.Generator().manual_seed(0)).bfloat16()[:, :1300]
    factor = torch.tensor([0.5, 0.0, -2.0, 2.0**-20, 3.3])
    x[1] = torch.nan
    for dtype in (BF16, F16, F32):
        out = torch.empty(5, 1400, dtype=dtype)[:, :1300]
        scale_rows.scale_rows(x, factor, out)
        wanted = (x.float() * factor[:, None]).to(dtype)
        wanted[1] = 0.0
        assert torch.equal(out, wanted)
        assert (launches[-1].reads("x_ptr").sum(1) == np.array([1300, 0, 1300, 1300, 1300])).all()
    y = torch.randn(5, 1300)
    wanted = y * factor[:, None]
    scale_rows.scale_rows(y, factor, y)
    assert torch.equal(y, wanted)


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 256, 257, 32000, 50257, 128256, 151936, 262144, 2**31 - 1])
def test_segments(vocab) -> None:
    segment = linear_tiling.segment_columns(vocab)
    assert -(-vocab // segment) <= linear_tiling.MOST_SEGMENTS
    for tiles in (linear_tiling.NARROW, linear_tiling.HEAVY, linear_tiling.WIDE):
        assert all(segment % t.columns == 0 and t.columns % SLOT == 0 for t in tiles.values())


@pytest.mark.parametrize(
    ("backend", "arch", "family"),
    [
        ("cuda", 80, "cuda8"), ("cuda", 86, "cuda8x"), ("cuda", 89, "cuda8x"), ("cuda", 90, "cuda9"),
        ("cuda", 100, "cuda10"), ("cuda", 103, "cuda10"), ("cuda", 120, "cuda8x"), ("cuda", 75, "other"),
        ("hip", "gfx942", "cdna"), ("hip", "gfx90a:sramecc+:xnack-", "cdna"), ("hip", "gfx1100", "other"),
    ],
)  # fmt: skip
def test_families(backend, arch, family) -> None:
    assert tiling.family_of(backend, arch) == family
    assert linear_tiling.linear_tiling(True, family=family) == linear_tiling.NARROW[family]
    assert linear_tiling.linear_tiling(True, True, family) == linear_tiling.HEAVY[family]
