"""The row kernels on a real GPU, at real sizes, against the float64 oracle: ``TRITON_INTERPRET=0 pytest -m gpu tests/kernels``.

The CPU twin is ``test_row_kernels``, which covers more cases on small shapes.
"""

import pytest
import torch

from fastpref.backends import LogitTransform, RowState, load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm GPU"),
]
DEVICE = "cuda"
SHAPES = [(37, 128256), (2000, 4096), (33, 50257), (8, 1)]


@pytest.fixture
def backend():
    backend = load("triton")
    if isinstance(backend, str):
        pytest.skip(backend)
    if backend.why_not(torch.device("cpu"), torch.float32) is None:
        pytest.skip("the interpreter is on: start the tests with TRITON_INTERPRET=0")
    return backend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_statistics_and_gradient(backend, dtype, shape, softcap) -> None:
    rows, columns = shape
    transform, oracle = LogitTransform(softcap=softcap, temperature=0.9), load("eager")
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(rows, columns, generator=g) * 4).to(dtype).to(DEVICE)
    targets = torch.randint(0, columns, (rows,), generator=g)
    targets[3::4] = -1
    targets, coefs = targets.to(DEVICE), torch.randn(2, rows, generator=g)
    coefs[:, 0] = 0
    onehot, softmax = coefs.to(DEVICE)

    def run(which, x: torch.Tensor, accumulate: torch.dtype, count: int):
        state = RowState.start(rows, x.device, accumulate)
        edges = [columns * i // count for i in range(count + 1)]
        spans = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if a < b]
        for a, b in spans:
            which.row_stats(x[:, a:b], targets, state, col0=a, transform=transform)
        logps, lse = state.finish(targets)
        coefs = [c.to(accumulate) for c in (lse, onehot, softmax)]
        for a, b in spans:
            which.row_grad(x[:, a:b], targets, *coefs, x[:, a:b], col0=a, transform=transform)
        return logps, lse, x

    exact = run(oracle, logits.to(torch.float64, copy=True), torch.float64, 1)
    plain = run(oracle, logits.to(torch.float32, copy=True), torch.float32, 1)
    got, again = (run(backend, logits.clone(), torch.float32, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    for value, reference, expected in zip(got, plain, exact, strict=True):
        allowed = 3 * (reference.to(value.dtype).double() - expected).abs().max() + 6e-6  # 3 ulp of a logit of 20
        assert (value.double() - expected).abs().max() <= allowed
