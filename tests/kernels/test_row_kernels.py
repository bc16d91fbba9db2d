"""Row statistics and row gradient through ``TritonBackend`` against float64 formulas, in the interpreter, every access checked."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS

from ..backends import test_row_statistics as statistics
from ..backends.cases import EXTREME
from ..emulation import Launch, require_triton, watch

require_triton()

from fastpref.backends.triton import TritonBackend  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
COLUMNS = [1, 31, 1000, 4099]
PLAIN = LogitTransform()
TRANSFORMS = {
    "plain": PLAIN,
    "temperature": LogitTransform(temperature=0.7),
    "negative scale": LogitTransform(logit_scale=-0.5),
    "softcap": LogitTransform(softcap=5.0),
    "all": LogitTransform(logit_scale=2.0, softcap=30.0, temperature=1.3),
}
CASES = [(dtype, columns, "plain") for dtype in DTYPES for columns in COLUMNS]
CASES += [(torch.float32, columns, name) for columns in (1, 1000) for name in TRANSFORMS if name != "plain"]
CASES += [(torch.bfloat16, 4099, "all"), (torch.float16, 31, "softcap")]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
cases = pytest.mark.parametrize(("dtype", "columns", "name"), CASES, ids=str)


@pytest.fixture
def launches():
    with watch() as seen:
        yield seen


@pytest.fixture
def backend(launches) -> TritonBackend:
    """Every launch of a test that asks for it is checked and counted."""
    return TritonBackend()


def transformed(x: Tensor, t: LogitTransform) -> Tensor:
    z = x * t.logit_scale
    if t.softcap is not None:
        z = t.softcap * torch.tanh(z / t.softcap)
    return z / t.temperature


def plain_stats(x: Tensor, targets: Tensor, t: LogitTransform) -> tuple[Tensor, Tensor]:
    """``(logps, lse)`` of whole rows in the dtype of ``x``, without the package."""
    z = transformed(x, t)
    logps = z.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    ignored = targets < 0
    return logps.masked_fill(ignored, 0), z.logsumexp(-1).masked_fill(ignored, 0)


def plain_grad(x: Tensor, targets: Tensor, lse: Tensor, onehot: Tensor, softmax: Tensor, t: LogitTransform) -> Tensor:
    """The contract's formula in the dtype of ``x``, with autograd's ``dz/dx``."""
    x = x.clone().requires_grad_()
    z = transformed(x, t)
    (slope,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    out = -softmax[:, None] * torch.exp(z.detach() - lse[:, None])
    hit = (targets >= 0).nonzero().squeeze(1)
    out[hit, targets[hit]] += onehot[hit]
    silent = (targets < 0) | ((onehot == 0) & (softmax == 0))
    return (out * slope).masked_fill(silent[:, None], 0)


def draw(dtype: torch.dtype, rows: int, columns: int, scale: float = 4.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with padded rows (whose padding is NaN) and targets; about every fourth row is ignored and holds NaN."""
    g = torch.Generator().manual_seed(seed)
    padded = torch.full((rows, columns + 5), torch.nan, dtype=dtype)
    logits = padded[:, 2 : columns + 2]
    logits.copy_(torch.randn(rows, columns, generator=g) * scale)
    targets = torch.randint(0, columns, (rows,), generator=g)
    targets[3::4] = -1
    logits[3::4] = torch.nan
    return logits, targets


def coefficients(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two coefficients per row: equal (any loss of log-probs), unequal, one of them 0, both 0."""
    g = torch.Generator().manual_seed(seed)
    onehot = torch.randn(rows, generator=g)
    softmax = torch.where(torch.arange(rows) % 2 == 0, onehot, torch.randn(rows, generator=g))
    onehot[[1, 4]] = 0
    softmax[[2, 4]] = 0
    return onehot, softmax


def chunks(columns: int, count: int) -> list[tuple[int, int]]:
    edges = sorted({columns * i // count for i in range(count + 1)})
    return list(zip(edges, edges[1:], strict=False))


def stats(backend: TritonBackend, logits: Tensor, targets: Tensor, t: LogitTransform, count: int = 1) -> RowState:
    state = RowState.start(len(targets), logits.device, torch.float32)
    for first, last in chunks(logits.shape[1], count):
        backend.row_stats(logits[:, first:last], targets, state, col0=first, transform=t)
    return state


def grad(
    backend: TritonBackend,
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    coefs: tuple[Tensor, Tensor],
    t: LogitTransform,
    out: Tensor,
    count: int = 1,
) -> Tensor:
    for first, last in chunks(logits.shape[1], count):
        columns = slice(first, last)
        backend.row_grad(logits[:, columns], targets, lse, *coefs, out[:, columns], col0=first, transform=t)
    return out


def active(logits: Tensor, targets: Tensor) -> Tensor:
    """float64 logits with the NaN of ignored rows out of the way."""
    return logits.double().masked_fill((targets < 0)[:, None], 0)


def assert_within(got: Tensor, plain: Tensor, exact: Tensor, factor: float, floor: float) -> None:
    """The error of ``got`` is at most ``factor`` times that of plain torch, plus a small floor."""
    error, allowed = (got.double() - exact).abs().max(), factor * (plain.double() - exact).abs().max() + floor
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


# --- values ----------------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("count", [1, 3])
def test_log_probs(backend, dtype, columns, name, count) -> None:
    transform = TRANSFORMS[name]
    logits, targets = draw(dtype, 5, columns)
    got = stats(backend, logits, targets, transform, count).finish(targets)
    exact = plain_stats(active(logits, targets), targets, transform)
    # The logits are given: what is judged is float32 arithmetic on them, whatever their dtype.
    plain = plain_stats(active(logits, targets).float(), targets, transform)
    for g, p, e in zip(got, plain, exact, strict=True):
        assert_within(g, p, e, factor=2, floor=2e-6)


@cases
def test_gradient(backend, dtype, columns, name) -> None:
    transform = TRANSFORMS[name]
    logits, targets = draw(dtype, 5, columns)
    coefs = coefficients(5)
    lse = plain_stats(active(logits, targets), targets, transform)[1].float()
    padded = torch.full((5, columns + 3), 7.0, dtype=dtype)
    out = grad(backend, logits, targets, lse, coefs, transform, padded[:, 1 : columns + 1], count=2)

    x = active(logits, targets)
    exact = plain_grad(x, targets, lse.double(), *(c.double() for c in coefs), transform)
    plain = plain_grad(x.float(), targets, lse, *coefs, transform).to(dtype)
    assert_within(out, plain, exact, factor=3, floor=3e-6)
    assert (out[[3, 4]] == 0).all()
    assert (padded[:, 0] == 7).all()
    assert (padded[:, columns + 1 :] == 7).all()

    inplace = logits.clone()  # in one chunk where out of place was in two
    grad(backend, inplace, targets, lse, coefs, transform, inplace, count=1)
    assert torch.equal(inplace, out)


@dtypes
def test_targets_at_the_edges_of_blocks(backend, dtype) -> None:
    targets = torch.tensor([0, 1023, 1024, 2047, 2048, 4095, 4096, 4098])
    logits = draw(dtype, 8, 4099)[0].nan_to_num(1.0)
    logps, lse = stats(backend, logits, targets, PLAIN).finish(targets)
    torch.testing.assert_close(logps.double(), plain_stats(logits.double(), targets, PLAIN)[0], rtol=0, atol=4e-6)
    out = grad(backend, logits, targets, lse, (torch.ones(8), torch.zeros(8)), PLAIN, torch.empty_like(logits))
    assert torch.equal(out.nonzero()[:, 1], targets)
    assert (out.gather(1, targets[:, None]) == 1).all()


def test_vocabulary_of_32768(backend) -> None:
    logits, targets = draw(torch.bfloat16, 4, 32768)
    state = stats(backend, logits, targets, PLAIN)
    logps, lse = state.finish(targets)
    exact = plain_stats(active(logits, targets), targets, PLAIN)
    assert_within(logps, exact[0], exact[0], factor=0, floor=3e-6)
    assert_within(lse, exact[1], exact[1], factor=0, floor=3e-6)
    ones = torch.ones(4)
    out = grad(backend, logits, targets, lse, (ones, ones), PLAIN, torch.empty_like(logits))
    expected = plain_grad(active(logits, targets), targets, lse.double(), ones.double(), ones.double(), PLAIN)
    assert_within(out, expected.bfloat16(), expected, factor=1, floor=1e-6)


@pytest.mark.parametrize("shift", [-30.0, -1.5, 0.0, 2.5])
def test_folds_into_a_state_whose_reference_is_not_its_maximum(backend, shift) -> None:
    logits, targets = draw(torch.float32, 6, 500)
    targets[:] = torch.randint(250, 500, (6,), generator=torch.Generator().manual_seed(1))
    logits[3] = 1.0
    m = logits[:, :250].amax(1) + shift
    state = RowState(m, torch.exp(logits[:, :250] - m[:, None]).sum(1), torch.full((6,), torch.nan))
    backend.row_stats(logits[:, 250:], targets, state, col0=250, transform=PLAIN)
    for got, exact in zip(state.finish(targets), plain_stats(logits.double(), targets, PLAIN), strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=4e-6)


@pytest.mark.parametrize("gap", [1e-6, 1e-4, 1e-2, 0.4, 0.6])
@pytest.mark.parametrize("transform", [PLAIN, LogitTransform(softcap=30.0)], ids=["plain", "softcap"])
def test_target_entry_keeps_its_digits_where_p_is_near_1(backend, gap, transform) -> None:
    logits, targets = draw(torch.float32, 3, 40)
    z = transformed(logits, transform)
    lse = z.gather(1, targets[:, None]).squeeze(1) + gap
    ones = torch.ones(3)
    out = grad(backend, logits, targets, lse, (ones, ones), transform, torch.empty_like(logits))
    # z - lse is what float32 leaves of it; from there on no digit is lost.
    d = (z - lse[:, None]).double().gather(1, targets[:, None])
    slope = 1 - (transformed(logits.double(), transform) / 30.0) ** 2 if transform.softcap else torch.ones(3, 40)
    expected = -torch.expm1(d) * slope.double().gather(1, targets[:, None])
    rtol = 2e-6 if transform.softcap is None else 2e-6 + 4e-6 / gap  # there z itself may be an ulp away
    torch.testing.assert_close(out.double().gather(1, targets[:, None]), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0, 2.4, 2.6, 20.0, 100.0])
def test_softcap_is_accurate_for_small_and_large_arguments(backend, size) -> None:
    t = LogitTransform(softcap=5.0)
    x = torch.tensor([[size], [-size]])
    targets = torch.zeros(2, dtype=torch.int64)
    state = stats(backend, x, targets, t)
    torch.testing.assert_close(state.zt.double(), transformed(x.double(), t).squeeze(1), rtol=4e-7, atol=0)
    # With lse = z the softmax is 1 and the coefficients leave the slope, sech^2, alone.
    out = grad(backend, x, targets, state.zt, (torch.zeros(2), -torch.ones(2)), t, torch.empty_like(x))
    exact = 1 / torch.cosh(x.double() / 5) ** 2
    torch.testing.assert_close(out.double(), exact, rtol=3e-6, atol=1e-12)


# --- statistics that were asked for ------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("count", [1, 3])
def test_statistics(backend, dtype, columns, name, count) -> None:
    logits, targets = draw(dtype, 5, columns)
    cuts = tuple(last for _, last in chunks(columns, count))[:-1]
    found = statistics.fold(backend, logits, targets, TRANSFORMS[name], cuts)
    statistics.assert_statistics(logits, targets, TRANSFORMS[name], found)


@pytest.mark.parametrize("chunk", [None, 701])
@pytest.mark.parametrize("name", EXTREME)
def test_statistics_of_extreme_values(backend, name, chunk) -> None:
    build, wanted = EXTREME[name]
    logits, targets = build().repeat(len(wanted), 1), torch.tensor(wanted)
    cuts = () if chunk is None else tuple(range(chunk, logits.shape[1], chunk))
    statistics.assert_statistics(logits, targets, PLAIN, statistics.fold(backend, logits, targets, cuts=cuts))


@dtypes
@pytest.mark.parametrize("places", [(3, 900), (1023, 1024), (5, 4096), (2047, 4098)], ids=str)
@pytest.mark.parametrize("cuts", [(), (900,)], ids=str)
def test_argmax_is_the_first_of_equals(backend, dtype, places, cuts) -> None:
    logits = draw(dtype, 2, 4099)[0]
    logits[:, places] = 60.0
    targets = torch.zeros(2, dtype=torch.int64)
    assert (statistics.fold(backend, logits, targets, cuts=cuts).argmax == places[0]).all()


def test_argmax_where_the_transform_falls(backend) -> None:
    logits, targets = draw(torch.float32, 3, 500)
    logits[:, 499] = -60.0
    found = statistics.fold(backend, logits, targets, TRANSFORMS["negative scale"], cuts=(100,))
    assert (found.argmax == 499).all()


@pytest.mark.parametrize("stats", [*((name,) for name in STATISTICS), ("argmax", "log_sum_sq_probs")], ids=str)
def test_each_statistic_alone(backend, stats) -> None:
    logits, targets = draw(torch.float32, 5, 1000)
    alone = statistics.fold(backend, logits, targets, stats=stats)
    together = statistics.fold(backend, logits, targets)
    assert {name for name in STATISTICS if getattr(alone, name) is not None} == set(stats)
    for name in ("logps", "lse", *stats):  # the tiling depends on what is asked for
        torch.testing.assert_close(getattr(alone, name), getattr(together, name), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_undefined_rows_become_nan_in_every_floating_statistic(backend, bad) -> None:
    logits = torch.ones(4, 1000)
    logits[0, 0] = logits[1, 500] = logits[2, 999] = bad
    found = statistics.fold(backend, logits, torch.zeros(4, dtype=torch.int64), cuts=(300,))
    for name in statistics.FLOATING:
        assert getattr(found, name).isnan().tolist() == [True, True, True, False], name


def test_statistics_read_each_active_logit_once_too(backend, launches: list[Launch]) -> None:
    logits, targets = draw(torch.bfloat16, 8, 4099)
    statistics.fold(backend, logits, targets)
    (launch,) = launches
    live = targets >= 0
    expected = live[:, None].expand(8, 4099).int().clone()
    expected[live, targets[live]] += 1
    assert np.array_equal(launch.reads("x_ptr"), expected.numpy())
    assert launch.bytes_stored() == int(live.sum()) * (7 * 4 + 8)
    for name in ("s2_ptr", "sd_ptr", "total_ptr", "top_ptr", "argmax_ptr"):
        assert launch.writes(name)[3] == 0


# --- special values --------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("columns", [31, 4099])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_positive_infinity_reach_the_sum(backend, dtype, columns, bad) -> None:
    logits = torch.zeros(4, columns, dtype=dtype)
    logits[0, 0] = logits[1, -1] = logits[2, columns // 2] = bad
    targets = torch.full((4,), 1)
    for count in (1, 2):
        state = stats(backend, logits, targets, PLAIN, count)
        assert state.s.isnan().tolist() == [True, True, True, False]
        assert state.finish(targets)[0].isnan().tolist() == [True, True, True, False]


def test_row_of_nothing_but_nan(backend) -> None:
    state = stats(backend, torch.full((1, 100), torch.nan), torch.zeros(1, dtype=torch.int64), PLAIN, 2)
    assert state.s.isnan().all()


@pytest.mark.parametrize("transform", [PLAIN, LogitTransform(temperature=2.0)], ids=["plain", "temperature"])
def test_negative_infinity_is_an_excluded_token(backend, transform) -> None:
    logits = torch.full((4, 60), -torch.inf)
    logits[1, 7], logits[2, 50], logits[3] = 3.0, 3.0, 1.0
    logits[3, ::2] = -torch.inf
    targets = torch.tensor([5, 7, 50, 1])
    state = stats(backend, logits[:, :30], targets, transform)
    assert (state.m[[0, 2]] == -torch.inf).all()
    assert (state.s[[0, 2]] == 0).all()
    backend.row_stats(logits[:, 30:], targets, state, col0=30, transform=transform)
    assert (state.m[0].item(), state.s[0].item()) == (-torch.inf, 0.0)
    logps = state.finish(targets)[0]
    torch.testing.assert_close(logps[1:], torch.tensor([0.0, 0.0, -np.log(30)], dtype=torch.float32))
    ones = torch.ones(4)
    out = grad(backend, logits, targets, state.finish(targets)[1], (ones, ones), transform, torch.empty_like(logits))
    assert (out[3, ::2] == 0).all()
    assert out[1:].isfinite().all()


def test_extreme_finite_logits(backend) -> None:
    """The whole float32 range in one row: nothing overflows on the way."""
    big = torch.finfo(torch.float32).max
    logits = torch.tensor([[-big, -big], [big, -big], [0.0, -big]])
    targets = torch.tensor([0, 0, 1])
    state = stats(backend, logits, targets, PLAIN)
    assert state.m.tolist() == [-big, big, 0.0]
    assert state.s.tolist() == [2.0, 1.0, 1.0]


def test_target_outside_the_vocabulary_is_nan_and_never_read(backend, launches) -> None:
    logits = torch.zeros(3, 10)
    targets = torch.tensor([10, 2**40, 2**32 + 1])
    state = stats(backend, logits, targets, PLAIN)
    assert state.zt.isnan().all()
    out = grad(
        backend, logits, targets, state.finish(targets)[1], (torch.ones(3), torch.ones(3)), PLAIN, logits.clone()
    )
    torch.testing.assert_close(out, torch.full((3, 10), -0.1))


@pytest.mark.parametrize("shape", [(0, 10), (3, 0)])
def test_empty_is_a_no_op(backend, launches, shape) -> None:
    logits, targets = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)
    state = RowState.start(shape[0], logits.device, torch.float32)
    backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)
    backend.row_grad(logits, targets, state.s, state.s, state.s, logits, col0=0, transform=PLAIN)
    assert launches == []


# --- memory ----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("columns", [31, 4099])
@pytest.mark.parametrize("count", [1, 2])
def test_statistics_read_each_active_logit_once(backend, launches: list[Launch], dtype, columns, count) -> None:
    logits, targets = draw(dtype, 8, columns)
    stats(backend, logits, targets, PLAIN, count)
    assert len(launches) == count
    live = targets >= 0
    expected = live[:, None].expand(8, columns).int().clone()
    expected[live, targets[live]] += 1  # the target's logit, gathered
    got = np.concatenate([launch.reads("x_ptr") for launch in launches], axis=1)
    assert np.array_equal(got, expected.numpy())
    rows, n = len(targets), int(live.sum())
    size = logits.element_size()
    assert sum(x.bytes_loaded() for x in launches) == n * (columns + 1) * size + count * (rows * 8 + n * 8)
    assert sum(x.bytes_stored() for x in launches) == count * n * 8 + n * 4
    assert all(x.bytes_stored("x_ptr") == 0 for x in launches)


@dtypes
@pytest.mark.parametrize("columns", [31, 4099])
@pytest.mark.parametrize("inplace", [True, False])
def test_gradient_reads_once_and_writes_once(backend, launches: list[Launch], dtype, columns, inplace) -> None:
    logits, targets = draw(dtype, 8, columns)
    onehot, softmax = coefficients(8)
    out = logits if inplace else torch.empty_like(logits)
    grad(backend, logits, targets, torch.zeros(8), (onehot, softmax), PLAIN, out)
    (launch,) = launches
    live = (targets >= 0) & ((onehot != 0) | (softmax != 0))
    assert 0 < live.sum() < (targets >= 0).sum() < 8
    assert np.array_equal(launch.reads("x_ptr"), live[:, None].expand(8, columns).int().numpy())
    assert np.array_equal(launch.writes("out_ptr"), np.ones((8, columns)))
    size, blocks = logits.element_size(), launch.programs // 8
    assert launch.bytes_stored() == 8 * columns * size
    assert launch.bytes_loaded() == int(live.sum()) * (columns * size + blocks * 4) + blocks * 8 * 16
    assert blocks <= -(
        -columns * size // 4096
    )  # at least 4 KiB of a row per block: 20 bytes of coefficients are nothing


def test_ignored_rows_keep_their_state(backend, launches: list[Launch]) -> None:
    logits, targets = draw(torch.float32, 8, 100)
    state = RowState(torch.full((8,), 1.0), torch.full((8,), 2.0), torch.full((8,), 3.0))
    backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)
    assert [state.m[3], state.s[3], state.zt[3]] == [1.0, 2.0, 3.0]
    for name in ("m_ptr", "s_ptr", "zt_ptr"):
        assert launches[0].writes(name)[3] == 0


def test_rows_beyond_2_to_the_31_elements() -> None:
    stride, columns = 2**30, 64  # the third row starts 2^31 elements in; only the rows' own pages are ever touched
    try:
        memory = torch.empty(2 * stride + columns, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"4 GiB of untouched address space: {error}")
    far = memory.as_strided((3, columns), (stride, 1))
    near, _ = draw(torch.bfloat16, 3, columns)
    far.copy_(near)
    targets, coefs, backend = torch.tensor([5, 6, 7]), (torch.ones(3), torch.ones(3)), TritonBackend()
    lse = stats(backend, near, targets, PLAIN).finish(targets)[1]
    assert torch.equal(stats(backend, far, targets, PLAIN).finish(targets)[1], lse)
    expected = grad(backend, near, targets, lse, coefs, PLAIN, torch.empty_like(near))
    assert torch.equal(grad(backend, far, targets, lse, coefs, PLAIN, far), expected)


@dtypes
def test_order_of_the_programs_does_not_change_a_bit(dtype) -> None:
    logits, targets = draw(dtype, 6, 5000)
    backend, coefs = TritonBackend(), coefficients(6)

    def run(shuffle_seed: int | None) -> tuple[Tensor, ...]:
        with watch(shuffle_seed):
            state = stats(backend, logits, targets, PLAIN, 2)
            lse = state.finish(targets)[1]
            return *state.finish(targets), grad(backend, logits, targets, lse, coefs, PLAIN, logits.clone(), 2)

    expected = run(None)
    for seed in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(run(seed), expected, strict=True))
