"""``row_stats`` and ``row_grad`` of every backend, the native one under each instruction set and the CUDA one emulated, against float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastpref.backends import Backend, LogitTransform, RowState, load

from ..emulation.cuda import require_emulated
from . import cases
from .cases import COLUMNS, DTYPES, EXTREME, PLAIN, TRANSFORMS, assert_grad, assert_stats, draw, draw_coefficients, fold

NATIVE = ["cpu-baseline", "cpu-avx2", "cpu-avx512"]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def use(name: str) -> Iterator[Backend]:
    if name == "cuda":
        yield require_emulated()
        return
    backend = load(name.split("-")[0])
    if isinstance(backend, str):
        pytest.skip(backend)
    if name in NATIVE:
        native = importlib.import_module("fastpref._C")
        isa, before = name.split("-")[1], native.active_isa()
        if isa not in native.supported_isas():
            pytest.skip(f"this CPU or this build has no {isa}")
        native.set_isa(isa)
        yield backend
        native.set_isa(before)
    else:
        yield backend


@pytest.fixture(params=["eager", *NATIVE, "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


def gradient(
    backend: Backend, logits: Tensor, targets: Tensor, lse: Tensor, onehot: Tensor, softmax: Tensor,
    t: LogitTransform = PLAIN, out: Tensor | None = None, col0: int = 0,
) -> Tensor:  # fmt: skip
    """Out of place unless ``out`` says otherwise; the output starts as NaN, so that an entry left out shows."""
    out = torch.full_like(logits, torch.nan) if out is None else out
    backend.row_grad(logits, targets, lse, onehot, softmax, out, col0=col0, transform=t)
    return out


def oracle_lse(logits: Tensor, targets: Tensor, t: LogitTransform = PLAIN) -> Tensor:
    return cases.torch_stats(logits.double(), targets, t)[1].float()


def assert_same_bits(a: RowState, b: RowState) -> None:
    for name in ("m", "s", "zt"):
        assert torch.equal(getattr(a, name).view(torch.int32), getattr(b, name).view(torch.int32)), name


@dtypes
@pytest.mark.parametrize("cols", COLUMNS)
def test_statistics(backend, dtype, cols):
    logits, targets = draw(cols, dtype)
    assert_stats(logits, targets, PLAIN, *fold(backend, logits, targets).finish(targets))


@dtypes
@pytest.mark.parametrize("cols", COLUMNS)
def test_gradient(backend, dtype, cols):
    logits, targets = draw(cols, dtype)
    lse, (onehot, softmax) = oracle_lse(logits, targets), draw_coefficients(len(targets))
    assert_grad(logits, targets, lse, onehot, softmax, PLAIN, gradient(backend, logits, targets, lse, onehot, softmax))


@dtypes
@pytest.mark.parametrize("cols", [1, 77, 2085])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(backend, dtype, cols, name):
    t = TRANSFORMS[name]
    logits, targets = draw(cols, dtype, scale=6.0)
    assert_stats(logits, targets, t, *fold(backend, logits, targets, t).finish(targets))
    lse, (onehot, softmax) = oracle_lse(logits, targets, t), draw_coefficients(len(targets))
    assert_grad(logits, targets, lse, onehot, softmax, t, gradient(backend, logits, targets, lse, onehot, softmax, t))


@dtypes
@pytest.mark.parametrize("name", EXTREME)
def test_extreme_values(backend, dtype, name):
    build, wanted = EXTREME[name]
    logits = build().to(dtype).repeat(len(wanted), 1)
    targets = torch.tensor(wanted)
    state = fold(backend, logits, targets)
    assert state.m.isfinite().all()
    logps, lse = state.finish(targets)
    assert_stats(logits, targets, PLAIN, logps, lse)
    lse, (onehot, softmax) = oracle_lse(logits, targets), draw_coefficients(len(targets))
    out = gradient(backend, logits, targets, lse, onehot, softmax)
    assert_grad(logits, targets, lse, onehot, softmax, PLAIN, out)
    masked = logits == -torch.inf
    masked[torch.arange(len(targets)), targets] = False
    assert (out[masked] == 0).all()


@dtypes
def test_lowest_finite_value_as_a_mask(backend, dtype):
    """``finfo.min`` instead of ``-inf``: next to ordinary logits, and in a row that has nothing else."""
    logits = torch.full((2, 2050), torch.finfo(dtype).min, dtype=dtype)
    logits[0, 2049] = 1.5
    targets = torch.tensor([2049, 0])
    logps, lse = fold(backend, logits, targets).finish(targets)
    assert_stats(logits, targets, PLAIN, logps, lse)
    ones = torch.ones(2)
    assert_grad(logits, targets, lse, ones, ones, PLAIN, gradient(backend, logits, targets, lse, ones, ones))


@dtypes
@pytest.mark.parametrize("cols", [1, 40, 5000])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_undefined_rows_become_nan(backend, dtype, cols, bad):
    """One NaN or +inf anywhere, alone among -inf too, and no other row suffers."""
    places = sorted({0, cols // 2, cols - 1})
    logits, targets = draw(cols, dtype, rows=2 * len(places) + 1)
    targets.fill_(0)
    logits[len(places) : -1] = -torch.inf
    logits[-1] = 1.0
    for i, place in enumerate(places * 2):
        logits[i, place] = bad
    logits = logits.nan_to_num(nan=bad, posinf=bad, neginf=-torch.inf)
    logps, lse = fold(backend, logits, targets).finish(targets)
    assert logps[:-1].isnan().all()
    assert lse[:-1].isnan().all()
    assert logps[-1:].isfinite().all()
    ones = torch.ones(len(targets))
    out = gradient(backend, logits, targets, lse, ones, ones)
    assert out[:-1].isnan().all()
    assert out[-1].isfinite().all()


def test_nan_in_one_chunk_survives_the_next(backend):
    logits = torch.zeros(2, 300)
    logits[0, 20], logits[1, 280] = torch.nan, torch.inf
    state = fold(backend, logits, torch.tensor([5, 5]), cuts=(100, 200))
    assert state.s.isnan().all()


def test_undefined_rows_never_get_an_infinite_reference(native):
    """It would undo whatever is merged with this state; -inf, of a row without any value, does not."""
    logits = torch.zeros(4, 40)
    logits[0, 3], logits[1, 39], logits[2], logits[3] = torch.inf, torch.nan, torch.nan, torch.inf
    state = fold(native, logits, torch.zeros(4, dtype=torch.int64))
    assert (state.m < torch.inf).all()
    assert state.s.isnan().all()


def test_nan_survives_any_payload_of_the_arguments(native):
    """Rounding to bf16 by integer arithmetic would turn a NaN with all mantissa bits set into -0."""
    ugly = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    logits, targets = torch.ones(1, 70, dtype=torch.bfloat16), torch.tensor([3])
    one = torch.ones(1)
    assert gradient(native, logits, targets, ugly, one, one).isnan().all()
    assert gradient(native, logits, targets, one, ugly, ugly).isnan().all()


@dtypes
@pytest.mark.parametrize("cuts", [(1,), (2048,), (4096,), (17, 400, 401, 3000)], ids=str)
@pytest.mark.parametrize("name", ["plain", "softcap"])
def test_chunks_equal_the_whole(backend, dtype, cuts, name):
    t = TRANSFORMS.get(name, PLAIN)
    logits, targets = draw(4097, dtype)
    logits[2, :400] = -torch.inf
    targets[2], targets[3] = 400, 16
    state = fold(backend, logits, targets, t, cuts)
    assert_stats(logits, targets, t, *state.finish(targets))
    lse, (onehot, softmax) = oracle_lse(logits, targets, t), draw_coefficients(len(targets))
    whole = gradient(backend, logits, targets, lse, onehot, softmax, t)
    edges = [0, *cuts, 4097]
    parts = [
        gradient(backend, logits[:, a:b], targets, lse, onehot, softmax, t, col0=a)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    assert_grad(logits, targets, lse, onehot, softmax, t, torch.cat(parts, 1))
    assert torch.equal(torch.cat(parts, 1).isnan(), whole.isnan())


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_values_in_chunks(backend, name):
    build, wanted = EXTREME[name]
    logits = build().repeat(len(wanted), 1)
    targets = torch.tensor(wanted)
    cuts = tuple(range(701, logits.shape[1], 701))
    assert_stats(logits, targets, PLAIN, *fold(backend, logits, targets, cuts=cuts).finish(targets))


def test_row_of_minus_infinity_so_far(backend):
    """The reference stays -inf and the sum 0, so that a later chunk starts afresh."""
    logits = torch.full((1, 2500), -torch.inf)
    state = fold(backend, logits, torch.tensor([3]))
    assert state.m.item() == -torch.inf
    assert state.s.item() == 0
    backend.row_stats(torch.full((1, 4), -900.0), torch.tensor([2502]), state, col0=2500, transform=PLAIN)
    logps, lse = state.finish(torch.tensor([2502]))
    assert logps.item() == pytest.approx(-1.3862944, rel=1e-6)
    assert lse.item() == pytest.approx(-898.6137, rel=1e-6)


@dtypes
def test_ignored_rows_are_left_alone(backend, dtype):
    logits, targets = draw(130, dtype)
    ignored = targets < 0
    state = RowState.start(len(targets), logits.device, torch.float32)
    for tensor, value in ((state.m, 3.0), (state.s, 4.0), (state.zt, 5.0)):
        tensor[ignored] = value
    backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)
    assert [t[ignored].tolist() for t in (state.m, state.s, state.zt)] == [[3.0], [4.0], [5.0]]


@dtypes
def test_rows_without_gradient_are_zeroed_unread(backend, dtype):
    """Ignored rows, and rows whose coefficients are both 0, whatever logits and log-sum-exp hold."""
    logits = torch.full((3, 67), torch.nan, dtype=dtype)
    targets = torch.tensor([-1, 4, 5])
    lse = torch.tensor([torch.nan, torch.inf, torch.nan])
    onehot, softmax = torch.tensor([1.0, 0.0, -0.0]), torch.tensor([1.0, -0.0, 0.0])
    assert (gradient(backend, logits, targets, lse, onehot, softmax) == 0).all()
    assert (gradient(backend, logits, targets, lse, onehot, softmax, out=logits) == 0).all()


@pytest.mark.parametrize(("onehot", "softmax"), [(1.0, 0.0), (0.0, 1.0)])
def test_one_coefficient_is_enough_for_a_gradient(backend, onehot, softmax):
    logits, targets = draw(67, torch.float32, rows=2)
    lse, o, c = oracle_lse(logits, targets), torch.full((2,), onehot), torch.full((2,), softmax)
    out = gradient(backend, logits, targets, lse, o, c)
    assert_grad(logits, targets, lse, o, c, PLAIN, out)
    assert (out != 0).any()


@dtypes
@pytest.mark.parametrize("cols", [1, 33, 2100])
@pytest.mark.parametrize("name", ["plain", "softcap"])
def test_in_place_has_the_bits_of_out_of_place(backend, dtype, cols, name):
    t = TRANSFORMS.get(name, PLAIN)
    logits, targets = draw(cols, dtype)
    lse, (onehot, softmax) = oracle_lse(logits, targets, t), draw_coefficients(len(targets))
    out = gradient(backend, logits, targets, lse, onehot, softmax, t)
    inplace = logits.clone()
    gradient(backend, inplace, targets, lse, onehot, softmax, t, out=inplace)
    assert torch.equal(out, inplace)


@dtypes
@pytest.mark.parametrize("cols", [1, 47, 4099])
@pytest.mark.parametrize("offset", [1, 3])
def test_strides_and_alignment_do_not_change_bits(native, dtype, cols, offset):
    logits, targets = draw(cols, dtype)
    rows = len(targets)
    padded = torch.full((rows * (cols + 5) + offset,), torch.nan, dtype=dtype)
    view = padded[offset:].view(rows, cols + 5)[:, :cols]
    view.copy_(logits)
    lse, (onehot, softmax) = oracle_lse(logits, targets), draw_coefficients(rows)
    expected, found = fold(native, logits, targets), fold(native, view, targets)
    assert_same_bits(expected, found)
    out = gradient(native, logits, targets, lse, onehot, softmax)
    gradient(native, view, targets, lse, onehot, softmax, out=view)
    assert torch.equal(out, view)
    gaps = padded.clone()
    gaps[offset:].view(rows, cols + 5)[:, :cols] = torch.nan
    assert gaps.isnan().all(), "something was written between the rows"


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dtypes
@pytest.mark.parametrize(("rows", "cols"), [(5, 33003), (700, 130), (3, 7)])
def test_threads_do_not_change_bits(native, restored_threads, dtype, rows, cols):
    logits, targets = draw(cols, dtype, rows=rows)
    lse, (onehot, softmax) = oracle_lse(logits, targets), draw_coefficients(rows)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        state = fold(native, logits, targets)
        results.append((state, gradient(native, logits, targets, lse, onehot, softmax)))
    for state, out in results[1:]:
        assert_same_bits(state, results[0][0])
        assert torch.equal(out, results[0][1])


def test_offsets_beyond_32_bits(native):
    """Two rows more than 2^32 bytes and 2^31 elements apart; memory between them is never touched."""
    stride = 2**31 + 11
    storage = torch.empty(stride + 100, dtype=torch.bfloat16)
    logits = storage.as_strided((2, 100), (stride, 1))
    logits.copy_(torch.randn(2, 100, generator=torch.Generator().manual_seed(1)))
    targets, ones = torch.tensor([3, 99]), torch.ones(2)
    packed = logits.clone()
    logps, lse = fold(native, logits, targets).finish(targets)
    assert_stats(packed, targets, PLAIN, logps, lse)
    gradient(native, logits, targets, lse, ones, ones, out=logits)
    assert torch.equal(logits, gradient(native, packed, targets, lse, ones, ones))


@dtypes
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_a_large_destination_is_written_past_the_caches_with_the_same_bits(native, dtype, offset):
    """From 32 MiB on; every row starts at another alignment, and nothing is written between the rows."""
    cols = 2**23 // dtype.itemsize * 2 + 3
    logits, targets = draw(cols, dtype, rows=3)
    lse, (onehot, softmax) = oracle_lse(logits[:1], targets[:1]).expand(3), draw_coefficients(3)
    padded = torch.full((offset + 3 * (cols + 2),), torch.nan, dtype=dtype)
    out = padded[offset:].view(3, cols + 2)[:, :cols]
    assert out.numel() * dtype.itemsize > 2**25
    gradient(native, logits, targets, lse, onehot, softmax, out=out)
    gaps = padded[offset:].view(3, cols + 2)[:, cols:]
    assert gaps.isnan().all()
    assert padded[:offset].isnan().all()
    gradient(native, logits, targets, lse, onehot, softmax, out=logits)
    assert torch.equal(out, logits)


def test_offsets_beyond_32_bits_out_of_place(native):
    """Source and destination both reach over more than 2^31 elements, in pages that are never touched."""
    stride = 2**31 + 11
    source, destination = (torch.empty(stride + 100, dtype=torch.bfloat16) for _ in range(2))
    logits, out = (x.as_strided((2, 100), (stride, 1)) for x in (source, destination))
    logits.copy_(torch.randn(2, 100, generator=torch.Generator().manual_seed(1)))
    targets, ones, lse = torch.tensor([3, 99]), torch.ones(2), torch.full((2,), 5.0)
    gradient(native, logits, targets, lse, ones, ones, out=out)
    assert torch.equal(out, gradient(native, logits.clone(), targets, lse, ones, ones))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_do(native, shape):
    logits, targets = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)
    state = fold(native, logits, targets)
    assert (state.s == 0).all()
    per_row = torch.ones(shape[0])
    gradient(native, logits, targets, per_row, per_row, per_row)


def test_expanded_coefficients(native):
    logits, targets = draw(50, torch.float32)
    lse, one = oracle_lse(logits, targets), torch.full((len(targets),), 0.25)
    shared = torch.tensor(0.25).expand(len(targets))
    assert torch.equal(
        gradient(native, logits, targets, lse, shared, shared), gradient(native, logits, targets, lse, one, one)
    )


@dtypes
def test_gradient_of_a_log_probability_sums_to_zero(backend, dtype):
    logits, targets = draw(3001, dtype, rows=2)
    ones = torch.ones(2)
    _, lse = fold(backend, logits, targets).finish(targets)
    out = gradient(backend, logits, targets, lse, ones, ones).double()
    rounding = torch.finfo(dtype).eps / 2 * out.abs().sum(-1)
    assert (out.sum(-1).abs() <= 2e-6 + rounding).all()


def test_target_keeps_its_digits_when_its_probability_is_close_to_one(native):
    """1 - p of 1e-4 to 1e-8 from p in fp32 would be wrong from the third digit on, or 0."""
    margins = torch.arange(10.0, 20.0)
    logits = torch.zeros(len(margins), 64)
    logits[:, 5] = margins
    targets, ones = torch.full((len(margins),), 5), torch.ones(len(margins))
    lse = margins + torch.tensor(1e-4)  # any log-sum-exp will do: the gradient is a function of its inputs
    exact = -torch.expm1(logits[:, 5].double() - lse.double())
    out = gradient(native, logits, targets, lse, ones, ones)[:, 5].double()
    assert ((out - exact) / exact).abs().max() < 1e-7


def test_exponential_over_its_whole_range(native):
    """The polynomial is good to 1.7e-7; rounding its argument to fp32 adds 7.5e-8 for each unit of it."""
    z = torch.cat([torch.linspace(-87.3, 88.7, 1_000_000), torch.linspace(-1.0, 1.0, 200_000)])[None]
    zero, minus_one = torch.zeros(1), -torch.ones(1)
    out = gradient(native, z, torch.tensor([z.numel()]), zero, zero, minus_one)
    exact = z.double().exp()
    off = ((out.double() - exact) / exact).abs()
    assert (off <= 1.7e-7 + 7.5e-8 * z.abs()).all(), f"{(off - 7.5e-8 * z.abs()).max():.3g}"


def test_exponential_outside_its_range(native):
    z = torch.tensor([[-torch.inf, -3e38, -1000.0, -105.0, 0.0, 89.0, 1000.0]])
    out = gradient(native, z, torch.tensor([99]), torch.zeros(1), torch.zeros(1), -torch.ones(1))
    assert out.tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0, torch.inf, torch.inf]]


def test_softcap_over_its_whole_range(native):
    """tanh itself, by the log-sum-exp of rows with one column, and its derivative; small arguments too, where 1 - 2 / (e^2u + 1)
    would have no digits left."""
    t = LogitTransform(softcap=1.0)
    u = torch.cat([torch.linspace(-12.0, 12.0, 50_001), torch.logspace(-30, 1, 20_000), torch.tensor([0.0])])[:, None]
    targets = torch.zeros(len(u), dtype=torch.int64)
    lse = fold(native, u, targets, t).finish(targets)[1].double()
    exact = torch.tanh(u.double()).squeeze(1)
    assert ((lse - exact).abs() <= 2.5e-7 * exact.abs()).all()

    per_row = torch.zeros(len(u)), torch.zeros(len(u)), -torch.ones(len(u))
    far = torch.full_like(targets, 7)
    out = gradient(native, u, far, *per_row, t).double().squeeze(1) / exact.exp()
    slope = (1 / torch.cosh(u.double()) ** 2).squeeze(1)
    assert ((out - slope).abs() <= (6e-7 + 3e-7 * u.abs().squeeze(1)) * slope).all()


def test_softcap_saturates_at_infinity(backend):
    """Behind a softcap an infinite logit is an ordinary one with derivative 0."""
    logits = torch.tensor([[torch.inf, -torch.inf, 0.0, 5.0]])
    t, targets, one = LogitTransform(softcap=3.0), torch.tensor([2]), torch.ones(1)
    logps, lse = fold(backend, logits, targets, t).finish(targets)
    assert_stats(logits, targets, t, logps, lse)
    out = gradient(backend, logits, targets, lse, one, one, t)
    assert out[0, :2].tolist() == [0.0, 0.0]
    assert out[0, 2:].isfinite().all()


values = st.one_of(
    st.floats(-20, 20, width=16), st.floats(-3e4, 3e4, width=16), st.sampled_from([-torch.inf, 0.0, -100.0, 60.0])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_row_in_any_chunks(native, data):
    """Rows assembled from runs of drawn values, cut anywhere."""
    runs = data.draw(st.lists(st.tuples(values, st.integers(1, 1500)), min_size=1, max_size=6))
    row = torch.cat([torch.full((length,), value) for value, length in runs])
    if not row.isfinite().any():
        row[-1] = 0.0
    cols = len(row)
    dtype = data.draw(st.sampled_from(DTYPES))
    t = LogitTransform(
        data.draw(st.sampled_from([1.0, 0.3])),
        data.draw(st.sampled_from([None, 10.0])),
        data.draw(st.sampled_from([1.0, 1.7])),
    )
    cuts = tuple(sorted(data.draw(st.sets(st.integers(0, cols), max_size=4))))
    logits = row.to(dtype)[None]
    finite = row.isfinite().nonzero().squeeze(1)
    targets = finite[data.draw(st.integers(0, len(finite) - 1))][None]
    assert_stats(logits, targets, t, *fold(native, logits, targets, t, cuts).finish(targets), equal_terms=32)
    lse, (onehot, softmax) = oracle_lse(logits, targets, t), draw_coefficients(1, seed=cols)
    assert_grad(logits, targets, lse, onehot, softmax, t, gradient(native, logits, targets, lse, onehot, softmax, t))
