"""Rows with a temperature of their own through ``TritonBackend``, in the interpreter, every access checked."""

import numpy as np
import pytest
import torch

from fastpref.backends import LogitTransform

from ..backends import test_row_temperature as temperature
from ..backends.cases import draw, fold
from ..emulation import require_triton, watch

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


@pytest.mark.parametrize("name", temperature.BASES)
@pytest.mark.parametrize(("dtype", "cols"), [(torch.float32, 1), (torch.bfloat16, 77)], ids=str)
def test_statistics_and_gradient(backend, dtype, name, cols) -> None:
    temperature.test_statistics_and_gradient(backend, dtype, name, cols)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("name", temperature.BASES)
def test_divergence(backend, name, direction) -> None:
    temperature.test_divergence(backend, torch.float32, name, direction)


def test_blocks_and_selections_take_their_rows(backend) -> None:
    temperature.test_blocks_and_selections_take_their_rows(backend)


def test_one_load_per_active_row(backend, launches) -> None:
    logits, targets = draw(300, torch.float32)
    fold(backend, logits, targets, LogitTransform(inv_temperature=torch.full((len(targets),), 0.5)))
    assert np.array_equal(launches[0].reads("row_scale_ptr"), (targets >= 0).numpy())
