"""The planner's figures of the tile kernels' scratch are what the kernels ask for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastpref import backends, tile_costs
from fastpref.backends.cpu_head import PLANES, CpuHead, HeadTiling

DTYPES = sorted(PLANES, key=PLANES.__getitem__)


@pytest.fixture(scope="module")
def head() -> CpuHead:
    backend = backends.load("cpu")
    if isinstance(backend, str):
        pytest.skip(backend)
    if (reason := backend.head.why_not(torch.bfloat16, torch.bfloat16)) is not None:
        pytest.skip(reason)
    return backend.head


@given(
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    shape=st.tuples(st.integers(0, 5000), st.integers(1, 300_000), st.integers(1, 5000)),
    chunk=st.integers(1, 5000),
    row_block=st.integers(1, 6000),
    flags=st.fixed_dictionaries({name: st.booleans() for name in ("dx", "dw", "db")}),
    statistics=st.booleans(),
    softcap=st.booleans(),
    kept=st.integers(0, 5000),
)
def test_they_are_those_of_the_kernels(head, dtypes, shape, chunk, row_block, flags, statistics, softcap, kept):
    rows, vocab, width = shape
    kept = min(kept, rows)
    tiling = HeadTiling.of(chunk, row_block)
    sizes = head.sizes(*dtypes, shape, tiling, statistics=statistics, softcap=softcap, kept_rows=kept, **flags)
    planes, threads = head.costs(*dtypes).planes, torch.get_num_threads()
    predicted = tile_costs.statistics_bytes(rows, vocab, width, planes, threads, all_statistics=statistics)
    assert predicted == sizes.statistics
    assert tile_costs.gradient_bytes(rows, vocab, width, planes, threads, chunk, row_block, **flags) == sizes.gradients
    assert tile_costs.kept_bytes(kept, vocab, planes, softcap=softcap) == sizes.kept
