"""Rows split over programs, and policy and reference in one launch, against whole rows and float64, in the interpreter."""

import pytest
import torch

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS
from fastpref.backends.triton import TritonBackend, _options

from ..emulation import require_triton, watch

require_triton()

from fastpref.kernels.row_stats import row_partials, row_stats  # noqa: E402
from fastpref.kernels.tiling import parts_of  # noqa: E402

COLUMNS = 40007
PLAIN = LogitTransform()
SOFTCAP = LogitTransform(logit_scale=1.5, softcap=20.0, temperature=1.3)


def draw(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a padded matrix; the last is ignored and holds NaN, as the padding does."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.full((rows, columns + 3), torch.nan, dtype=dtype)[:, 1 : columns + 1]
    logits.copy_(torch.randn(rows, columns, generator=g) * 3)
    targets = torch.randint(0, columns, (rows,), generator=g)
    targets[-1], logits[-1] = -1, torch.nan
    return logits, targets


def statistics(logits, targets, transform, multiprocessors, edges=None):
    state = RowState.start(len(targets), logits.device, torch.float32, STATISTICS)
    for first, last in edges or [(0, logits.shape[1])]:
        part = logits[:, first:last]
        options = {**_options(transform), "col0": first, "multiprocessors": multiprocessors}
        row_stats(part, targets, **vars(state), **options)
    return state


@pytest.mark.parametrize(
    ("dtype", "transform"), [(torch.float32, SOFTCAP), (torch.bfloat16, PLAIN)], ids=["float32, softcap", "bfloat16"]
)
def test_split_rows_have_the_statistics_of_whole_rows(dtype, transform) -> None:
    logits, targets = draw(3, COLUMNS, dtype)
    logits[0, 7], logits[0, 39000] = (
        logits[0].max() + 1,
        logits[0].max() + 1,
    )  # a tie far apart: the first column counts
    logits[1, :33000] = -torch.inf  # parts without a finite logit
    with watch() as launches:
        split = statistics(logits, targets, transform, 16).statistics(targets, COLUMNS)
    assert [(launch.kernel, launch.programs > 3) for launch in launches] == [
        ("_row_stats", True),
        ("_merge_row_stats", False),
    ]
    assert (launches[0].reads("x_ptr")[:2].sum(axis=1) == COLUMNS + 1).all()  # and the target once more
    assert (launches[0].reads("x_ptr")[2] == 0).all()
    whole = statistics(logits, targets, transform, 0).statistics(targets, COLUMNS)
    for name, found in vars(split).items():
        torch.testing.assert_close(found, getattr(whole, name), rtol=2e-6, atol=4e-6, equal_nan=True, msg=name)


def test_split_chunks_fold_into_the_state() -> None:
    logits, targets = draw(3, COLUMNS, torch.float32)
    edges = [(0, 20000), (20000, 20001), (20001, COLUMNS)]
    chunked = statistics(logits, targets, PLAIN, 16, edges).statistics(targets, COLUMNS)
    z = logits[:2].double()
    exact = z.log_softmax(-1)
    torch.testing.assert_close(
        chunked.logps[:2].double(), exact.gather(1, targets[:2, None]).squeeze(1), rtol=0, atol=4e-6
    )
    torch.testing.assert_close(chunked.entropy[:2].double(), -(exact.exp() * exact).sum(-1), rtol=2e-6, atol=0)
    assert torch.equal(chunked.argmax[:2], z.argmax(-1))
    assert chunked.logps[2] == chunked.lse[2] == 0


def test_an_order_of_programs_does_not_matter() -> None:
    logits, targets = draw(3, COLUMNS, torch.bfloat16)
    found = []
    for seed in (None, 1):
        with watch(shuffle_seed=seed):
            found.append(statistics(logits, targets, PLAIN, 16))
    for other in found[1:]:
        for a, b in zip(vars(found[0]).values(), vars(other).values(), strict=True):
            assert a.equal(b) or torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("multiprocessors", [0, 16])
def test_policy_and_reference_in_one_launch(multiprocessors) -> None:
    logits, targets = draw(4, COLUMNS, torch.bfloat16)
    reference, _ = draw(4, COLUMNS, torch.bfloat16, seed=1)
    targets[3], targets[1] = -100, COLUMNS + 5  # ignored; outside of the vocabulary
    with watch() as launches:
        m, s, zt = row_partials(logits, reference, targets, ignore_index=-100, multiprocessors=multiprocessors)
    (launch,) = launches
    for name in ("x_ptr", "ref_ptr"):
        assert launch.reads(name).sum(axis=1).tolist() == [COLUMNS + 1, COLUMNS, COLUMNS + 1, 0]
    assert m.shape[0] == 2
    assert (m.shape[1] > 1) == (multiprocessors > 0)
    for side, x in enumerate((logits, reference)):
        lse = (m[side] + s[side].log()).logsumexp(0)
        torch.testing.assert_close(lse[:3].double(), x[:3].double().logsumexp(-1), rtol=1e-6, atol=0)
        assert zt[side, 1].isnan()
        assert zt[side, 0] == x[0, targets[0]]
    same = row_partials(logits, logits, targets, ignore_index=-100, multiprocessors=multiprocessors)
    for value in same:
        assert torch.equal(value[0, ..., :1], value[1, ..., :1])


def test_an_ignored_target_may_be_a_column() -> None:
    logits = torch.full((2, 5), torch.nan)
    logits[1] = torch.arange(5.0)
    m, s, zt = row_partials(logits, None, torch.tensor([0, 3]), ignore_index=0)
    assert (m.shape, zt.shape) == ((1, 1, 2), (1, 2))
    torch.testing.assert_close(m[0, 0, 1] + s[0, 0, 1].log(), logits[1].logsumexp(0))
    assert zt[0, 1] == 3


@pytest.mark.parametrize(
    ("rows", "columns", "multiprocessors"),
    [(1, 1, 132), (8, 128256, 132), (131, 128256, 132), (132, 99, 132), (3, 50257, 0)],
)
def test_parts_cover_the_columns(rows, columns, multiprocessors) -> None:
    parts, width = parts_of(rows, columns, 8192, multiprocessors)
    assert (parts - 1) * width < columns <= parts * width
    assert width % 8192 == 0
    if rows >= multiprocessors:
        assert parts == 1
    if (rows, columns) == (8, 128256):
        assert rows * parts >= 0.9 * multiprocessors


def test_the_backend_splits_by_the_device(monkeypatch) -> None:
    logits, targets = draw(2, COLUMNS, torch.float32)
    backend, state = TritonBackend(), RowState.start(2, logits.device, torch.float32)
    monkeypatch.setattr(backend, "_multiprocessors", lambda device: 8)
    with watch() as launches:
        backend.row_stats(logits, targets, state, col0=0, transform=PLAIN)
    assert [launch.kernel for launch in launches] == ["_row_stats", "_merge_row_stats"]
