"""The kernels of a divergence through ``TritonBackend`` against float64 formulas, in the interpreter, every access checked."""

import numpy as np
import pytest
import torch

from ..backends import test_row_divergence as divergence
from ..backends.cases import PLAIN
from ..backends.test_row_divergence import directions
from ..emulation import require_triton, watch
from .test_row_kernels import TRANSFORMS

require_triton()

from fastpref.backends.triton import TritonBackend  # noqa: E402


@pytest.fixture
def launches():
    with watch() as seen:
        yield seen


@pytest.fixture
def backend(launches) -> TritonBackend:
    """Every launch of a test that asks for it is checked and counted."""
    return TritonBackend()


@directions
@pytest.mark.parametrize(
    ("dtype", "cols"),
    [*((torch.float32, cols) for cols in (1, 31, 4099)), (torch.bfloat16, 1000), (torch.float16, 1000)],
    ids=str,
)
def test_values_and_gradients(backend, dtype, cols, direction) -> None:
    divergence.test_values_and_gradients(backend, dtype, cols, direction)


@directions
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(backend, name, direction) -> None:
    t = TRANSFORMS[name]
    logits, ref_logits, targets = divergence.pair(300, torch.float32)
    state = divergence.fold(backend, logits, ref_logits, targets, direction, t)
    divergence.assert_kl(logits, ref_logits, targets, direction, t, state)
    rows = (
        *divergence.per_row(logits, ref_logits, targets, direction, t),
        *divergence.coefficients(len(targets)),
    )
    out = divergence.gradient(backend, logits, ref_logits, targets, rows, direction, t)
    divergence.assert_gradient(logits, ref_logits, targets, rows, direction, t, out)


@directions
@pytest.mark.parametrize("cuts", [(1,), (400, 3000)], ids=str)
def test_chunks_and_their_log_probabilities(backend, cuts, direction) -> None:
    divergence.test_chunks_and_their_log_probabilities(backend, torch.float32, cuts, direction)


@directions
@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_rows_that_rise_or_fall_without_end(backend, slope, direction) -> None:
    divergence.test_rows_that_rise_or_fall_without_end(backend, (701, 1402), slope, direction)


@directions
@pytest.mark.parametrize("name", ["plain", "temperature", "softcap"])
def test_equal_rows_give_exactly_0(backend, name, direction) -> None:
    divergence.test_equal_rows_give_exactly_0(backend, torch.bfloat16, 300, name, direction)


@directions
@pytest.mark.parametrize("cuts", [(), (10,)], ids=str)
def test_excluded_entries(backend, cuts, direction) -> None:
    divergence.test_excluded_entries(backend, cuts, direction)


def test_an_infinite_term_survives_what_follows(backend) -> None:
    divergence.test_an_infinite_term_survives_what_follows(backend)


@directions
def test_undefined_rows_become_nan_and_ignored_ones_stay(backend, direction) -> None:
    divergence.test_undefined_rows_become_nan_and_ignored_ones_stay(backend, direction)


@directions
def test_in_place_reads_once_and_writes_once(backend, launches, direction) -> None:
    logits, ref_logits, targets = divergence.pair(4099, torch.bfloat16)
    rows = (
        *divergence.per_row(logits, ref_logits, targets, direction, PLAIN),
        *divergence.coefficients(len(targets)),
    )
    expected = divergence.gradient(backend, logits, ref_logits, targets, rows, direction)
    divergence.gradient(backend, logits, ref_logits, targets, rows, direction, out=logits)
    assert torch.equal(logits, expected)
    for launch in launches:
        live, third = [1, 1, 1, 0, 0, 1], [1, 0, 1, 0, 0, 1]  # one row has no third term, one is silent, one is ignored
        assert np.array_equal(launch.reads("x_ptr"), np.repeat(np.array(live)[:, None], 4099, 1))
        assert np.array_equal(launch.reads("y_ptr"), np.repeat(np.array(third)[:, None], 4099, 1))
        assert np.array_equal(launch.writes("out_ptr"), np.ones((6, 4099)))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_is_a_no_op(backend, launches, shape) -> None:
    divergence.test_nothing_to_do(backend, shape)
    assert launches == []
