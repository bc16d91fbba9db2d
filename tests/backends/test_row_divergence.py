"""``row_kl_stats`` and ``row_kl_grad`` of every backend, the native one under each instruction set, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastpref.backends import Backend, LogitTransform, RowState
from fastpref.backends.base import Direction, KlState

from .cases import DTYPES, EPS, PLAIN, TRANSFORMS, assert_within, draw, draw_coefficients, transformed
from .test_row_primitives import NATIVE, use

COLUMNS = [1, 2, 31, 33, 65, 1000, 4097, 33003]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


@pytest.fixture(params=["eager", *NATIVE, "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from use(request.param)


def pair(cols: int, dtype: torch.dtype, scale: float = 2.5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the reference's logits near them, and targets; one row is ignored and holds NaN."""
    logits, targets = draw(cols, dtype, scale=scale)
    return logits, (logits.float() + 0.3 * draw(cols, torch.float32, seed=1)[0]).to(dtype), targets


def fold(
    backend: Backend, logits: Tensor, ref_logits: Tensor, targets: Tensor, direction: Direction,
    t: LogitTransform = PLAIN, cuts: tuple[int, ...] = (), dtype: torch.dtype = torch.float32,
) -> KlState:  # fmt: skip
    """The state after all columns, taken in chunks that end at ``cuts``."""
    state = KlState.start(logits.shape[0], logits.device, dtype)
    edges = [0, *cuts, logits.shape[1]]
    for a, b in zip(edges, edges[1:], strict=False):
        backend.row_kl_stats(
            logits[:, a:b], ref_logits[:, a:b], targets, state, col0=a, transform=t, direction=direction
        )
    return state


def torch_kl(logits: Tensor, ref_logits: Tensor, targets: Tensor, direction: Direction, t: LogitTransform) -> Tensor:
    """By plain torch in the dtype of the logits; an entry that the measure excludes contributes 0."""
    log_p, log_q = (transformed(x, t).log_softmax(-1) for x in (logits, ref_logits))
    a, b = (log_q, log_p) if direction == "forward" else (log_p, log_q)
    return torch.where(a > -torch.inf, a.exp() * (a - b), 0.0).sum(-1).masked_fill(targets < 0, 0.0)


def assert_kl(
    logits: Tensor, ref_logits: Tensor, targets: Tensor, direction: Direction, t: LogitTransform, state: KlState
) -> None:
    kl = state.finish(targets, direction)[-1]
    exact = torch_kl(logits.double(), ref_logits.double(), targets, direction, t)
    usual = torch_kl(logits.float(), ref_logits.float(), targets, direction, t)
    spread = (transformed(logits.double(), t) - transformed(ref_logits.double(), t)).nan_to_num(0.0, 0.0, 0.0).abs()
    size = transformed(logits.double(), t).nan_to_num(0.0, 0.0, 0.0).abs().amax(-1)
    floor = EPS * (4 + 2 * spread.amax(-1) + (0.0 if t == PLAIN else 2 * size))
    assert_within("kl", kl, exact, usual, 2.0, floor)
    assert (kl >= 0).all()


def coefficients(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of both signs; one row has no third term, one has nothing else, one is silent."""
    onehot, softmax = draw_coefficients(rows)
    third = draw_coefficients(rows, seed=3)[0]
    if rows >= 6:
        third[1] = 0
        onehot[2] = softmax[2] = 0
        onehot[3] = softmax[3] = third[3] = 0
    return onehot, softmax, third


def per_row(
    logits: Tensor, ref_logits: Tensor, targets: Tensor, direction: Direction, t: LogitTransform
) -> tuple[Tensor, Tensor, Tensor]:
    """``(lse, ref_lse, kl)`` from float64."""
    lse, ref_lse = (transformed(x.double(), t).logsumexp(-1).masked_fill(targets < 0, 0) for x in (logits, ref_logits))
    kl = torch_kl(logits.double(), ref_logits.double(), targets, direction, t)
    return lse.float(), ref_lse.float(), kl.float()


def gradient(
    backend: Backend, logits: Tensor, ref_logits: Tensor, targets: Tensor, rows: tuple[Tensor, ...],
    direction: Direction, t: LogitTransform = PLAIN, out: Tensor | None = None, col0: int = 0,
) -> Tensor:  # fmt: skip
    """Out of place unless ``out`` says otherwise; the output starts as NaN, so that an entry left out shows."""
    out = torch.full_like(logits, torch.nan) if out is None else out
    backend.row_kl_grad(logits, ref_logits, targets, *rows, out, col0=col0, transform=t, direction=direction)
    return out


def torch_gradient(
    logits: Tensor, ref_logits: Tensor, targets: Tensor, rows: tuple[Tensor, ...], direction: Direction,
    t: LogitTransform,
) -> Tensor:  # fmt: skip
    """The contract's formula in the dtype of the logits, with autograd's ``dz/dx``."""
    lse, ref_lse, kl, onehot, softmax, third = (value.to(logits.dtype)[:, None] for value in rows)
    x = logits.clone().requires_grad_()
    z = transformed(x, t)
    (slope,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    log_p, log_q = z.detach() - lse, transformed(ref_logits, t) - ref_lse
    p = log_p.exp()
    d = p - log_q.exp() if direction == "forward" else torch.where(p == 0, 0.0, p * (log_p - log_q - kl))
    out = torch.where(third == 0, 0.0, third * d) - softmax * p
    hit = (targets >= 0).nonzero().squeeze(1)
    out[hit, targets[hit]] += onehot.squeeze(1)[hit]
    silent = (targets < 0)[:, None] | ((onehot == 0) & (softmax == 0) & (third == 0))
    return (out * slope).masked_fill(silent, 0.0)


def assert_gradient(
    logits: Tensor, ref_logits: Tensor, targets: Tensor, rows: tuple[Tensor, ...], direction: Direction,
    t: LogitTransform, out: Tensor,
) -> None:  # fmt: skip
    exact = torch_gradient(logits.double(), ref_logits.double(), targets, rows, direction, t)
    usual = torch_gradient(logits.float(), ref_logits.float(), targets, rows, direction, t).to(logits.dtype)
    for r in range(len(targets)):
        size = exact[r].abs().max()
        rounded_z = 0.0 if t == PLAIN else transformed(logits[r].double(), t).abs().nan_to_num(0.0).max()
        floor = EPS * size * (8 + rounded_z) + torch.finfo(logits.dtype).tiny
        assert_within(f"gradient of row {r}", out[r], exact[r], usual[r], 3.0, floor.expand_as(exact[r]))


@directions
@dtypes
@pytest.mark.parametrize("cols", COLUMNS)
def test_values_and_gradients(backend, dtype, cols, direction):
    logits, ref_logits, targets = pair(cols, dtype)
    assert_kl(logits, ref_logits, targets, direction, PLAIN, fold(backend, logits, ref_logits, targets, direction))
    rows = (*per_row(logits, ref_logits, targets, direction, PLAIN), *coefficients(len(targets)))
    out = gradient(backend, logits, ref_logits, targets, rows, direction)
    assert_gradient(logits, ref_logits, targets, rows, direction, PLAIN, out)
    assert (out[[3, 4]] == 0).all()


@directions
@dtypes
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(backend, dtype, name, direction):
    t = TRANSFORMS[name]
    logits, ref_logits, targets = pair(2085, dtype)
    assert_kl(logits, ref_logits, targets, direction, t, fold(backend, logits, ref_logits, targets, direction, t))
    rows = (*per_row(logits, ref_logits, targets, direction, t), *coefficients(len(targets)))
    out = gradient(backend, logits, ref_logits, targets, rows, direction, t)
    assert_gradient(logits, ref_logits, targets, rows, direction, t, out)


@directions
@dtypes
@pytest.mark.parametrize("cuts", [(1,), (2048,), (17, 400, 401, 3000)], ids=str)
def test_chunks_and_their_log_probabilities(backend, dtype, cuts, direction):
    """In any chunks, and beside the divergence the very bits of ``row_stats``."""
    logits, ref_logits, targets = pair(4097, dtype)
    logits[2, :400], ref_logits[2, :400] = -torch.inf, -torch.inf
    targets[2], targets[3] = 400, 16
    state = fold(backend, logits, ref_logits, targets, direction, cuts=cuts)
    assert_kl(logits, ref_logits, targets, direction, PLAIN, state)
    edges = [0, *cuts, 4097]
    for x, side in ((logits, state.policy), (ref_logits, state.reference)):
        alone = RowState.start(len(targets), x.device, torch.float32)
        for a, b in zip(edges, edges[1:], strict=False):
            backend.row_stats(x[:, a:b], targets, alone, col0=a, transform=PLAIN)
        for name in ("m", "s", "zt"):
            assert torch.equal(getattr(side, name).nan_to_num(7), getattr(alone, name).nan_to_num(7)), name
    rows = (*per_row(logits, ref_logits, targets, direction, PLAIN), *coefficients(len(targets)))
    parts = [
        gradient(backend, logits[:, a:b], ref_logits[:, a:b], targets, rows, direction, col0=a)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    assert_gradient(logits, ref_logits, targets, rows, direction, PLAIN, torch.cat(parts, 1))


@directions
@pytest.mark.parametrize("cuts", [(), (701, 1402, 2103)], ids=str)
@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_rows_that_rise_or_fall_without_end(backend, cuts, slope, direction):
    """Every block lies far above or below the one before, for one side more than for the other."""
    logits = torch.linspace(-1500.0, 1500.0, 3001)[None] * slope
    ref_logits = logits * 0.75 + torch.sin(torch.arange(3001.0))
    targets = torch.tensor([17])
    state = fold(backend, logits, ref_logits, targets, direction, cuts=cuts)
    assert_kl(logits, ref_logits, targets, direction, PLAIN, state)


@directions
@dtypes
@pytest.mark.parametrize("cols", [1, 33, 5000])
@pytest.mark.parametrize("name", ["plain", "temperature", "softcap"])
def test_equal_rows_give_exactly_0(backend, dtype, cols, name, direction):
    t = TRANSFORMS.get(name, PLAIN)
    logits, targets = draw(cols, dtype)
    for cuts in ((), (cols // 3, cols // 2)) if cols > 5 else ((),):
        state = fold(backend, logits, logits, targets, direction, t, cuts)
        logps, lse, ref_logps, ref_lse, kl = state.finish(targets, direction)
        assert torch.equal(logps, ref_logps)
        assert torch.equal(lse, ref_lse)
        assert (kl == 0).all()
    zero, ones = torch.zeros(len(targets)), torch.ones(len(targets))
    out = gradient(backend, logits, logits, targets, (lse, ref_lse, kl, zero, zero, ones), direction, t)
    assert (out == 0).all()


@directions
@pytest.mark.parametrize("cuts", [(), (10,), (100, 200)], ids=str)
def test_excluded_entries(backend, cuts, direction):
    """Excluded from both, from what measures, and from the other one alone, which is infinite."""
    logits, ref_logits, targets = pair(300, torch.float32)
    a, b = (ref_logits, logits) if direction == "forward" else (logits, ref_logits)
    targets[:4] = 150
    a[0, 5::7], b[0, 5::7] = -torch.inf, -torch.inf
    a[1, :120] = -torch.inf
    b[2, 6] = -torch.inf
    state = fold(backend, logits, ref_logits, targets, direction, cuts=cuts)
    kl = state.finish(targets, direction)[-1]
    assert kl.isinf().tolist() == [False, False, True, False, False, False]
    keep = [0, 1, 3, 5]
    exact = torch_kl(logits[keep].double(), ref_logits[keep].double(), targets[keep], direction, PLAIN)
    torch.testing.assert_close(kl[keep].double(), exact, rtol=2e-6, atol=1e-6)
    rows = [value[keep] for value in (*per_row(logits, ref_logits, targets, direction, PLAIN), *coefficients(6))]
    out = gradient(backend, logits[keep], ref_logits[keep], targets[keep], tuple(rows), direction)
    assert out.isfinite().all()
    assert_gradient(logits[keep], ref_logits[keep], targets[keep], tuple(rows), direction, PLAIN, out)


def test_an_infinite_term_survives_what_follows(backend):
    logits, ref_logits = torch.zeros(1, 40), torch.zeros(1, 40)
    logits[0, 3] = -torch.inf
    logits[0, 30] = ref_logits[0, 30] = 500.0  # next to which exp of the others is 0
    kl = fold(backend, logits, ref_logits, torch.tensor([30]), "forward", cuts=(20,)).finish(
        torch.tensor([30]), "forward"
    )
    assert kl[-1].item() == torch.inf


@directions
def test_undefined_rows_become_nan_and_ignored_ones_stay(backend, direction):
    logits, ref_logits, targets = pair(300, torch.float32)
    logits[0, 7], ref_logits[1, 8] = torch.nan, torch.inf
    state = KlState.start(len(targets), logits.device, torch.float32)
    state.cross[targets < 0] = 5.0
    backend.row_kl_stats(logits, ref_logits, targets, state, col0=0, transform=PLAIN, direction=direction)
    assert state.cross[targets < 0].tolist() == [5.0]
    logps, _, ref_logps, _, kl = state.finish(targets, direction)
    assert (logps + ref_logps + kl).isnan().tolist() == [True, True, False, False, False, False]


@directions
@dtypes
@pytest.mark.parametrize("name", ["plain", "softcap"])
def test_in_place_strided_and_threaded_have_the_same_bits(native, dtype, name, direction):
    t = TRANSFORMS.get(name, PLAIN)
    logits, ref_logits, targets = pair(3001, dtype)
    rows = (*per_row(logits, ref_logits, targets, direction, t), *coefficients(len(targets)))
    state = fold(native, logits, ref_logits, targets, direction, t)
    out = gradient(native, logits, ref_logits, targets, rows, direction, t)
    before = torch.get_num_threads()
    padded = torch.full((2, len(targets), 3009), torch.nan, dtype=dtype)
    x, y = padded[0, :, 3:3004].copy_(logits), padded[1, :, 3:3004].copy_(ref_logits)
    try:
        torch.set_num_threads(3)
        again = fold(native, x, y, targets, direction, t)
        gradient(native, x, y, targets, rows, direction, t, out=x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(state.cross, again.cross)
    assert torch.equal(out, x)
    assert torch.equal(ref_logits.nan_to_num(7), y.nan_to_num(7))
    assert padded[0, :, :3].isnan().all()
    assert padded[0, :, 3004:].isnan().all()


@directions
def test_one_side_undefined_leaves_the_other_its_bits(native, direction):
    """A NaN or +inf early in a row of several blocks ends that side's sum and not the other's."""
    logits, ref_logits, targets = pair(9001, torch.float32)
    logits[0, 3], ref_logits[1, 2050] = torch.inf, torch.nan
    state = fold(native, logits, ref_logits, targets, direction)
    for x, side in ((logits, state.policy), (ref_logits, state.reference)):
        alone = RowState.start(len(targets), x.device, torch.float32)
        native.row_stats(x, targets, alone, col0=0, transform=PLAIN)
        for name in ("m", "s", "zt"):
            assert torch.equal(getattr(side, name).nan_to_num(7), getattr(alone, name).nan_to_num(7)), name
    assert state.finish(targets, direction)[-1].isnan().tolist() == [True, True, False, False, False, False]


@directions
def test_offsets_beyond_32_bits(native, direction):
    """Two rows more than 2^31 elements apart on both sides; memory between them is never touched."""
    stride = 2**31 + 11
    logits, ref_logits, targets = (x[:2] for x in pair(100, torch.bfloat16))
    far = [torch.empty(stride + 100, dtype=torch.bfloat16).as_strided((2, 100), (stride, 1)) for _ in range(2)]
    x, y = (wide.copy_(near) for wide, near in zip(far, (logits, ref_logits), strict=True))
    state, again = (fold(native, a, b, targets, direction) for a, b in ((logits, ref_logits), (x, y)))
    assert torch.equal(state.cross, again.cross)
    made = (value[:2] for value in coefficients(6))
    rows = (*per_row(logits, ref_logits, targets, direction, PLAIN), *made)
    out = gradient(native, logits, ref_logits, targets, rows, direction)
    assert torch.equal(gradient(native, x, y, targets, rows, direction, out=x), out)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_do(native, shape):
    logits, targets = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)
    assert (fold(native, logits, logits, targets, "forward").cross == 0).all()
    gradient(native, logits, logits, targets, (torch.ones(shape[0]),) * 6, "forward")
