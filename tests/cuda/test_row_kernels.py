"""The CUDA row kernels in the emulator: values at every alignment, the same bits in every order of threads and blocks, and what they read and write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS, Direction, KlState
from fastpref.backends.cuda_rows import CudaRows

from ..backends import cases
from ..backends import test_row_divergence as divergence
from ..backends import test_row_statistics as statistics
from ..backends.cases import DTYPES, PLAIN, assert_grad, assert_stats, draw, draw_coefficients
from ..emulation.cuda import control

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
COLUMNS = [1, 7, 31, 1000, 1003]
TRANSFORMS = {
    "plain": PLAIN,
    "scale": LogitTransform(logit_scale=-1.5, temperature=0.7),
    "softcap": LogitTransform(logit_scale=1.5, softcap=6.0, temperature=1.3),
}
MANY = 10_000  # multiprocessors: rows are split as far as they can be
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


@pytest.fixture
def backend(emulated_cuda: CudaRows) -> Iterator[CudaRows]:
    before = emulated_cuda.multiprocessors
    yield emulated_cuda
    emulated_cuda.multiprocessors = before


def placed(values: Tensor, offset: int, gap: int) -> Tensor:
    """The same matrix with its first element ``offset`` elements behind 16 aligned bytes and ``gap`` elements of NaN between rows."""
    rows, cols = values.shape
    memory = torch.full((offset + rows * (cols + gap) + 16,), torch.nan, dtype=values.dtype)
    start = (-memory.data_ptr() % 16) // values.element_size() + offset
    view = memory[start : start + rows * (cols + gap)].view(rows, cols + gap)[:, :cols]
    return view.copy_(values)


def fold(backend: CudaRows, logits: Tensor, targets: Tensor, t: LogitTransform = PLAIN, stats: tuple[str, ...] = (), **options: Tensor) -> RowState:  # fmt: skip
    state = RowState.start(len(targets), logits.device, F32, stats)
    backend.row_stats(logits, targets, state, col0=0, transform=t, **options)
    return state


def oracle_lse(logits: Tensor, targets: Tensor, t: LogitTransform = PLAIN) -> Tensor:
    return cases.torch_stats(logits.double(), targets, t)[1].float()


def gradient(backend: CudaRows, logits: Tensor, targets: Tensor, rows: tuple[Tensor, ...], t: LogitTransform = PLAIN, out: Tensor | None = None, **options: Tensor) -> Tensor:  # fmt: skip
    out = torch.full_like(logits, torch.nan) if out is None else out
    backend.row_grad(logits, targets, *rows, out, col0=0, transform=t, **options)
    return out


def bits(*tensors: Tensor | None) -> list[Tensor]:
    return [
        t.contiguous().view(torch.int16 if t.element_size() == 2 else torch.int32) for t in tensors if t is not None
    ]


def assert_same_bits(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


# --- values ----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("cols", COLUMNS)
@pytest.mark.parametrize(("offset", "gap"), [(0, 0), (1, 3), (5, 8)])
def test_values_at_every_alignment(backend, dtype, cols, offset, gap):
    """Statistics of whole rows and of rows in parts; gradients from and to other alignments, in place too."""
    logits, targets = draw(cols, dtype)
    x = placed(logits, offset, gap)
    for count in (0, MANY):
        backend.multiprocessors = count
        state = fold(backend, x, targets, stats=STATISTICS)
        assert_stats(logits, targets, PLAIN, *state.finish(targets))
        statistics.assert_statistics(logits, targets, PLAIN, state.statistics(targets, cols))
        alone = fold(backend, x, targets)
        assert_same_bits(bits(alone.m, alone.s, alone.zt), bits(state.m, state.s, state.zt))
    rows = (oracle_lse(logits, targets), *draw_coefficients(len(targets)))
    out = gradient(backend, x, targets, rows)
    assert_grad(logits, targets, *rows, PLAIN, out)
    for other in (0, 2):
        there = placed(torch.zeros_like(logits), other, 5)
        assert_same_bits(bits(gradient(backend, x, targets, rows, out=there)), bits(out))
    assert_same_bits(bits(gradient(backend, x, targets, rows, out=x)), bits(out))
    memory = x.as_strided((len(targets), cols + gap), (cols + gap, 1))
    assert memory[:, cols:].isnan().all()


@dtypes
@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_transforms_of_unaligned_rows(backend, dtype, name):
    t = TRANSFORMS[name]
    logits, targets = draw(1003, dtype)
    x = placed(logits, 3, 1)
    backend.multiprocessors = MANY
    state = fold(backend, x, targets, t, STATISTICS)
    assert_stats(logits, targets, t, *state.finish(targets))
    statistics.assert_statistics(logits, targets, t, state.statistics(targets, 1003))
    rows = (oracle_lse(logits, targets, t), *draw_coefficients(len(targets)))
    assert_grad(logits, targets, *rows, t, gradient(backend, x, targets, rows, t))


@dtypes
def test_vocabulary_of_32768(backend, dtype):
    logits, targets = draw(32768, dtype, rows=2)
    backend.multiprocessors = 132
    state = fold(backend, logits, targets)
    assert_stats(logits, targets, PLAIN, *state.finish(targets))
    rows = (oracle_lse(logits, targets), *draw_coefficients(2))
    assert_grad(logits, targets, *rows, PLAIN, gradient(backend, logits, targets, rows))


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_any_number_of_rows(backend, rows):
    logits, targets = draw(1003, BF16, rows=rows)
    backend.multiprocessors = 8  # 64 rows stay whole
    assert_stats(logits, targets, PLAIN, *fold(backend, logits, targets).finish(targets))
    per_row = (oracle_lse(logits, targets), *draw_coefficients(rows))
    assert_grad(logits, targets, *per_row, PLAIN, gradient(backend, logits, targets, per_row))


def test_masked_logits_in_parts_of_a_row(backend):
    """A part of nothing but -inf, a row that has nothing else so far, and NaN and +inf in one part only."""
    logits, _ = draw(9001, F32, rows=5)
    logits[0, :5000] = -torch.inf
    logits[1] = -torch.inf
    logits[2, 8999], logits[3, 0] = torch.nan, torch.inf
    targets = torch.tensor([9000, 4, 5, 6, 7])
    backend.multiprocessors = MANY
    state = fold(backend, logits, targets, stats=STATISTICS)
    assert state.m[1] == -torch.inf
    assert state.s[1] == 0
    assert state.argmax[1] == 0
    assert state.s.isnan().tolist() == [False, False, True, True, False]
    assert (state.m < torch.inf).all()
    keep = [0, 4]
    assert_stats(logits[keep], targets[keep], PLAIN, *(x[keep] for x in state.finish(targets)))


@pytest.mark.parametrize("gap", [1e-6, 1e-4, 1e-2, 0.4, 0.6])
@pytest.mark.parametrize("offset", [0, 3])
def test_target_entry_keeps_its_digits_where_p_is_near_1(backend, gap, offset):
    """In vectors and in the elements before and after them; beside a third term too."""
    logits = placed(draw(13, F32, rows=2)[0].expand(2, 13).repeat(7, 1)[:13], offset, 1)
    targets, ones = torch.arange(13), torch.ones(13)
    lse = logits.gather(1, targets[:, None]).squeeze(1) + gap
    d = (
        (logits - lse[:, None]).double().gather(1, targets[:, None])
    )  # what float32 leaves of it; no digit is lost from there on
    out = gradient(backend, logits, targets, (lse, ones, ones))
    torch.testing.assert_close(out.double().gather(1, targets[:, None]), -torch.expm1(d), rtol=2e-6, atol=0)
    rows = (lse, lse, torch.zeros(13), ones, ones, torch.full((13,), 2.0))
    third = divergence.gradient(backend, logits, logits, targets, rows, "forward")  # of equal rows: 0
    torch.testing.assert_close(third.gather(1, targets[:, None]), out.gather(1, targets[:, None]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 0.1, 1.0, 3.9, 4.1, 20.0, 100.0])
def test_softcap_is_accurate_for_small_and_large_arguments(backend, size):
    t = LogitTransform(softcap=5.0)
    x = torch.tensor([[size], [-size]])
    targets = torch.zeros(2, dtype=torch.int64)
    state = fold(backend, x, targets, t)
    torch.testing.assert_close(state.zt.double(), cases.transformed(x.double(), t).squeeze(1), rtol=4e-7, atol=0)
    # With lse = z the softmax is 1 and the coefficients leave the slope, sech^2, alone.
    out = gradient(backend, x, targets, (state.zt, torch.zeros(2), -torch.ones(2)), t)
    exact = 1 / torch.cosh(x.double() / 5) ** 2
    torch.testing.assert_close(out.double(), exact, rtol=3e-6, atol=1e-12)


# --- what a chunked head asks for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias_dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dtype", "offset"), [(F32, 0), (F32, 1), (BF16, 0), (F16, 3)], ids=str)
@pytest.mark.parametrize("name", ["plain", "softcap"])
def test_bias_is_added_before_the_transform(backend, dtype, offset, bias_dtype, name):
    t = TRANSFORMS[name]
    logits, targets = draw(331, dtype)
    bias = torch.randn(331, generator=torch.Generator().manual_seed(3)).to(bias_dtype)
    sum_ = logits.float() + bias.float()
    x = placed(logits, offset, 1)
    state = fold(backend, x, targets, t, STATISTICS, bias=bias)
    plain = fold(backend, x, targets, t, bias=bias)
    assert_stats(sum_, targets, t, *state.finish(targets))
    assert_stats(sum_, targets, t, *plain.finish(targets))
    statistics.assert_statistics(sum_, targets, t, state.statistics(targets, 331))
    rows = (oracle_lse(sum_, targets, t), *draw_coefficients(len(targets)))
    expected = gradient(backend, sum_, targets, rows, t).to(dtype)
    assert torch.equal(gradient(backend, x, targets, rows, t, bias=bias), expected)


@pytest.mark.parametrize("out_dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize(("offset", "out_offset"), [(0, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("cols", [5, 331, 4099])
def test_gradient_of_another_dtype_is_the_rounded_one(backend, out_dtype, offset, out_offset, cols):
    logits, targets = draw(cols, F32)
    rows = (oracle_lse(logits, targets), *draw_coefficients(len(targets)))
    rows[1][0] = rows[2][0] = 0
    expected = gradient(backend, logits, targets, rows).to(out_dtype)
    out = placed(torch.zeros(logits.shape, dtype=out_dtype), out_offset, 3)
    gradient(backend, placed(logits, offset, 2), targets, rows, out=out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("gain", [2.0, -0.25, 0.0])
def test_gain_is_a_factor_on_both_coefficients(backend, gain):
    logits, targets = draw(331, F32)
    lse, (onehot, softmax) = oracle_lse(logits, targets), draw_coefficients(len(targets))
    expected = gradient(backend, logits, targets, (lse, onehot * gain, softmax * gain))
    found = gradient(backend, logits, targets, (lse, onehot, softmax), gain=torch.tensor([gain]))
    assert torch.equal(found, expected)


# --- divergence -------------------------------------------------------------------------------------------------------


@directions
@dtypes
def test_divergence_of_unaligned_rows_in_parts(backend, dtype, direction: Direction):
    logits, ref_logits, targets = divergence.pair(5003, dtype)
    x, y = placed(logits, 1, 3), placed(ref_logits, 4, 1)
    backend.multiprocessors = MANY
    state = divergence.fold(backend, x, y, targets, direction, cuts=(3100,))
    divergence.assert_kl(logits, ref_logits, targets, direction, PLAIN, state)
    z = placed(ref_logits, 1, 3)  # each row aligned as that of x
    alike = divergence.fold(backend, x, z, targets, direction, cuts=(3100,))
    for side, values in ((alike.policy, x), (alike.reference, z)):
        alone = RowState.start(len(targets), x.device, F32)
        for a, b in ((0, 3100), (3100, 5003)):
            backend.row_stats(values[:, a:b], targets, alone, col0=a, transform=PLAIN)
        assert_same_bits(bits(side.m, side.s, side.zt), bits(alone.m, alone.s, alone.zt))
    rows = (
        *divergence.per_row(logits, ref_logits, targets, direction, PLAIN),
        *divergence.coefficients(len(targets)),
    )
    out = divergence.gradient(backend, x, y, targets, rows, direction)
    divergence.assert_gradient(logits, ref_logits, targets, rows, direction, PLAIN, out)
    assert_same_bits(bits(divergence.gradient(backend, x, y, targets, rows, direction, out=x)), bits(out))


@directions
@dtypes
def test_equal_rows_that_are_aligned_differently_have_no_divergence(backend, dtype, direction: Direction):
    logits, _, targets = divergence.pair(1003, dtype)
    for multiprocessors in (0, MANY):
        backend.multiprocessors = multiprocessors
        state = divergence.fold(backend, placed(logits, 1, 3), placed(logits, 4, 2), targets, direction, cuts=(501,))
        logps, lse, ref_logps, ref_lse, kl = state.finish(targets, direction)
        assert torch.equal(logps, ref_logps)
        assert torch.equal(lse, ref_lse)
        assert (kl == 0).all()


@directions
def test_likely_targets_have_their_third_term(backend, direction: Direction):
    logits, ref_logits, targets = divergence.pair(31, F32)
    live = (targets >= 0).nonzero().squeeze(1)
    logits[live, targets[live]], ref_logits[live, targets[live]] = 9.0, 6.0
    rows = (*divergence.per_row(logits, ref_logits, targets, direction, PLAIN), *divergence.coefficients(6))
    out = divergence.gradient(backend, logits, ref_logits, targets, rows, direction)
    divergence.assert_gradient(logits, ref_logits, targets, rows, direction, PLAIN, out)


@directions
@pytest.mark.parametrize("name", TRANSFORMS)
def test_equal_rows_of_another_matrix_diverge_by_exactly_0(backend, name, direction: Direction):
    t = TRANSFORMS[name]
    logits, targets = draw(5003, BF16)
    x, y = placed(logits, 3, 2), placed(logits, 3, 2)
    backend.multiprocessors = MANY
    state = divergence.fold(backend, x, y, targets, direction, t)
    _, lse, _, ref_lse, kl = state.finish(targets, direction)
    assert (kl == 0).all()
    zero, ones = torch.zeros(len(targets)), torch.ones(len(targets))
    out = divergence.gradient(backend, x, y, targets, (lse, ref_lse, kl, zero, zero, ones), direction, t)
    assert (out == 0).all()


# --- order ------------------------------------------------------------------------------------------------------------


@dtypes
def test_no_order_of_threads_or_blocks_changes_a_bit(backend, dtype):
    logits, ref_logits, targets = divergence.pair(5003, dtype)
    x, y = placed(logits, 1, 2), placed(ref_logits, 1, 2)
    rows = (oracle_lse(logits, targets), *draw_coefficients(len(targets)))
    all_rows = (*divergence.per_row(logits, ref_logits, targets, "reverse", PLAIN), *divergence.coefficients(6))
    backend.multiprocessors = MANY

    def everything() -> list[Tensor]:
        state = fold(backend, x, targets, stats=STATISTICS)
        both = KlState.start(len(targets), x.device, F32)
        backend.row_kl_stats(x, y, targets, both, col0=0, transform=PLAIN, direction="forward")
        inplace = x.clone()
        return bits(
            *vars(state).values(),
            *vars(both.policy).values(),
            *vars(both.reference).values(),
            both.cross,
            gradient(backend, inplace, targets, rows, out=inplace),
            divergence.gradient(backend, x, y, targets, all_rows, "reverse"),
        )

    expected = everything()
    for seed in (1, 2):
        with control().shuffled(seed):
            assert_same_bits(everything(), expected)


@pytest.mark.parametrize(
    ("rows", "multiprocessors", "parts"), [(4, 0, 1), (4, 4, 1), (3, 4, 3), (1, 132, 5), (1, 2, 4)]
)
def test_rows_are_split_where_they_are_fewer_than_multiprocessors(backend, rows, multiprocessors, parts):
    """5 steps of a block per row; twice as many blocks as multiprocessors are wanted."""
    logits, targets = draw(5 * 256 * 4 * 4, F32, rows=rows)
    targets[:] = 9
    logits = logits.nan_to_num(1.0)
    backend.multiprocessors = multiprocessors
    control()._library.emulator_reset()
    state = fold(backend, logits, targets)
    totals = control().totals()
    wanted = min(-(-2 * multiprocessors // rows), 5) if rows < multiprocessors else 1
    assert totals.blocks == rows * -(-5 // -(-5 // wanted)) == rows * {3: 3, 4: 3}.get(parts, parts)
    assert totals.atomics == (totals.blocks if parts > 1 else 0)
    assert_stats(logits, targets, PLAIN, *state.finish(targets))


# --- traffic ----------------------------------------------------------------------------------------------------------


def per_row_tensors(rows: int) -> dict[str, Tensor]:
    return {name: torch.ones(rows) for name in ("lse", "onehot", "softmax")}


@dtypes
@pytest.mark.parametrize("cols", [1000, 1003])
def test_statistics_read_each_logit_once_and_the_targets_once_more(backend, dtype, cols):
    logits, targets = draw(cols, dtype)
    x = placed(logits, 0, 8)
    live = int((targets >= 0).sum())
    for stats in ((), STATISTICS):
        state = RowState.start(len(targets), x.device, F32, stats)
        given = {name: value for name, value in vars(state).items() if value is not None}
        with control().watching(logits=x, targets=targets, **given) as seen:
            backend.row_stats(x, targets, state, col0=0, transform=PLAIN)
        assert seen["logits"].loads == live * (cols + 1) * dtype.itemsize
        assert seen["logits"].stores == 0
        width = 16 // dtype.itemsize
        at_least = live * (cols // width - 1) * 16
        assert seen["logits"].wide_loads >= at_least
        assert seen.totals.launches == 1
        assert seen["zt"].loads == 0
        for name, value in given.items():
            assert seen[name].stores == live * value.element_size(), name


@dtypes
def test_parts_of_rows_read_each_logit_once_too(backend, dtype):
    logits, targets = draw(9001, dtype)
    x = placed(logits, 3, 2)
    live = int((targets >= 0).sum())
    state = RowState.start(len(targets), x.device, F32)
    backend.multiprocessors = MANY
    size = backend._native.cuda_row_stats_workspace(
        dtype=backend.dtypes[dtype], rows=len(targets), cols=9001, more=False, multiprocessors=MANY
    )
    workspace = torch.zeros(size, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_workspace", lambda *_: workspace)
        with control().watching(
            logits=x, targets=targets, workspace=workspace, m=state.m, s=state.s, zt=state.zt
        ) as seen:
            backend.row_stats(x, targets, state, col0=0, transform=PLAIN)
    assert seen["logits"].loads == live * 9002 * dtype.itemsize
    assert seen.totals.blocks > len(targets)
    assert seen["workspace"].loads + seen["workspace"].stores <= 64 * seen.totals.blocks
    assert_stats(logits, targets, PLAIN, *state.finish(targets))


@dtypes
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("cols", [1000, 1003])
def test_gradients_read_each_logit_once_and_write_each_entry_once(backend, dtype, cols, inplace):
    logits, targets = draw(cols, dtype)
    x = placed(logits, 0, 8)
    per_row = per_row_tensors(len(targets))
    per_row["onehot"][0] = per_row["softmax"][0] = 0
    out = x if inplace else torch.empty_like(x)
    live = int((targets >= 0).sum()) - 1
    tensors = {"logits": x, "targets": targets, **per_row} | ({} if inplace else {"out": out})
    with control().watching(**tensors) as seen:
        gradient(backend, x, targets, tuple(per_row.values()), out=out)
    assert seen["logits"].loads == live * cols * dtype.itemsize
    written = seen["logits" if inplace else "out"]
    assert written.stores == len(targets) * cols * dtype.itemsize
    width = 16 // dtype.itemsize
    assert written.wide_stores >= len(targets) * (cols // width - 1) * 16
    assert seen["logits"].wide_loads >= (live * (cols // width - 1) * 16 if inplace or cols % width == 0 else 0)


def test_silent_rows_are_not_read_at_all(backend):
    """Not announced, in fact: logits of ignored rows and of rows without coefficients."""
    logits, _ = draw(331, F32, rows=4)
    targets, per_row = torch.tensor([-1, 3, -5, 4]), per_row_tensors(4)
    per_row["onehot"][1] = per_row["softmax"][1] = 0
    out = torch.empty_like(logits)
    with control().watching(logits=logits[3:], targets=targets, out=out, **per_row) as seen:
        gradient(backend, logits, targets, tuple(per_row.values()), out=out)
    assert seen["logits"].loads == 331 * 4
    assert (out[:3] == 0).all()
    state = RowState.start(4, logits.device, F32)
    with control().watching(logits=logits[[1, 3]], targets=targets, m=state.m, s=state.s, zt=state.zt):
        backend.row_stats(logits[:0], targets[:0], state, col0=0, transform=PLAIN)
    with control().watching(logits=logits[3], targets=targets, m=state.m[3:], s=state.s[3:], zt=state.zt[3:]):
        targets[1] = -1
        backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)


@directions
@dtypes
def test_statistics_of_a_divergence_read_both_twice_and_the_targets_once_more(backend, dtype, direction: Direction):
    logits, ref_logits, targets = divergence.pair(1003, dtype)
    x, y = placed(logits, 2, 5), placed(ref_logits, 2, 5)
    live = int((targets >= 0).sum())
    state = KlState.start(len(targets), x.device, F32)
    workspace = torch.zeros(
        backend._native.cuda_row_kl_stats_workspace(
            dtype=backend.dtypes[dtype], rows=len(targets), cols=1003, multiprocessors=0
        ),
        dtype=torch.uint8,
    )
    sides = {f"policy_{n}": v for n, v in vars(state.policy).items() if v is not None}
    sides |= {f"reference_{n}": v for n, v in vars(state.reference).items() if v is not None}
    given = {"logits": x, "ref": y, "targets": targets, "workspace": workspace, "cross": state.cross, **sides}
    with pytest.MonkeyPatch.context() as patch, control().watching(**given) as seen:
        patch.setattr(backend, "_workspace", lambda *_: workspace)
        backend.row_kl_stats(x, y, targets, state, col0=0, transform=PLAIN, direction=direction)
    assert seen["logits"].loads == seen["ref"].loads == live * (2 * 1003 + 1) * dtype.itemsize
    assert seen["logits"].stores == seen["ref"].stores == 0
    width = 16 // dtype.itemsize
    assert seen["logits"].wide_loads == seen["ref"].wide_loads
    assert seen["logits"].wide_loads >= 2 * live * (1003 // width - 1) * 16
    assert seen["cross"].stores == live * 4
    divergence.assert_kl(logits, ref_logits, targets, direction, PLAIN, state)


@directions
def test_divergence_reads_the_reference_only_for_the_third_term(backend, direction: Direction):
    logits, ref_logits, targets = divergence.pair(1000, BF16)
    per_row = {
        **dict(zip(("lse", "ref_lse", "kl"), divergence.per_row(logits, ref_logits, targets, direction, PLAIN), strict=True)),
        **dict(zip(("onehot", "softmax", "third"), divergence.coefficients(6), strict=True)),
    }  # fmt: skip
    out = torch.empty_like(logits)
    with control().watching(logits=logits, ref=ref_logits, targets=targets, out=out, **per_row) as seen:
        divergence.gradient(backend, logits, ref_logits, targets, tuple(per_row.values()), direction, out=out)
    live = (targets >= 0) & ((per_row["onehot"] != 0) | (per_row["softmax"] != 0) | (per_row["third"] != 0))
    assert seen["logits"].loads == int(live.sum()) * 2000
    assert seen["ref"].loads == int((live & (per_row["third"] != 0)).sum()) * 2000
    assert seen["out"].stores == 6 * 2000 == seen["out"].wide_stores
    assert seen["kl"].loads == 0 or direction == "reverse"


def test_a_kernel_that_goes_astray_is_named(backend):
    logits, targets = draw(31, F32)
    with (
        pytest.raises(RuntimeError, match=r"CUDA kernel row_stats.*outside of the memory"),
        control().watching(t=targets),
    ):
        fold(backend, logits, targets)
