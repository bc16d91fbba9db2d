"""pytest-benchmark suite of the row primitives: ``pytest bench/test_rows.py --benchmark-enable``.

For trends of one machine over time; for ratios to PyTorch, interleaved in one run, see ``bench/rows.py``.
"""

import pytest
import torch

from fastpref.backends import Backend, LogitTransform, RowState, load

ROWS, VOCAB = 256, 32000
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TRANSFORMS = {
    "plain": LogitTransform(),
    "temperature": LogitTransform(temperature=0.7),
    "softcap": LogitTransform(softcap=30.0),
}

pytestmark = [
    pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch.")),
    pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS),
    pytest.mark.parametrize("backend", ["cpu", "eager"], indirect=True),
]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    loaded = load(request.param)
    if isinstance(loaded, str):
        pytest.skip(loaded)
    return loaded


@pytest.fixture
def logits(dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(0)) * 2.5).to(dtype)


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(0, VOCAB, (ROWS,), generator=torch.Generator().manual_seed(1))


def test_row_stats(benchmark, backend, logits, targets, transform):
    def run() -> RowState:
        state = RowState.start(ROWS, logits.device, torch.float32)
        backend.row_stats(logits, targets, state, col0=0, transform=transform)
        return state

    benchmark.extra_info["bytes"] = logits.numel() * logits.element_size()
    assert benchmark(run).s.isfinite().all()


def test_row_grad_in_place(benchmark, backend, logits, targets, transform):
    lse, coef = torch.full((ROWS,), 13.0), torch.full((ROWS,), 1e-3)

    def run() -> torch.Tensor:
        backend.row_grad(logits, targets, lse, coef, coef, logits, col0=0, transform=transform)
        return logits

    benchmark.extra_info["bytes"] = 2 * logits.numel() * logits.element_size()
    assert benchmark(run).isfinite().all()
