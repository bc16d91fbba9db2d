"""The row kernels on a real GPU, at real sizes, against the float64 oracle: ``TRITON_INTERPRET=0 pytest -m gpu tests/kernels``.

The CPU twin is ``test_row_kernels``, which covers more cases on small shapes.
"""

import pytest
import torch

from fastpref.backends import LogitTransform, RowState, load

from ..backends import test_row_divergence as divergence
from ..backends import test_row_statistics as statistics
from ..backends.cases import PLAIN, draw

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("columns", [1, 50257, 128256])
def test_statistics_that_were_asked_for(backend, dtype, columns) -> None:
    logits, targets = (x.to(DEVICE) for x in draw(columns, dtype))
    for cuts in ((), (columns // 3,)) if columns > 1 else ((),):
        found = statistics.fold(backend, logits, targets, cuts=cuts)
        statistics.assert_statistics(logits, targets, PLAIN, found)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("columns", [1, 50257, 128256])
def test_divergence(backend, dtype, columns, direction) -> None:
    logits, ref_logits, targets = (x.to(DEVICE) for x in divergence.pair(columns, dtype))
    cuts = (columns // 3,) if columns > 1 else ()
    state = divergence.fold(backend, logits, ref_logits, targets, direction, cuts=cuts)
    divergence.assert_kl(logits, ref_logits, targets, direction, PLAIN, state)
    made = divergence.coefficients(len(targets))
    rows = (*divergence.per_row(logits, ref_logits, targets, direction, PLAIN), *(c.to(DEVICE) for c in made))
    out = divergence.gradient(backend, logits, ref_logits, targets, rows, direction)
    divergence.assert_gradient(logits, ref_logits, targets, rows, direction, PLAIN, out)
    same = divergence.fold(backend, logits, logits.clone(), targets, direction, cuts=cuts).finish(targets, direction)
    assert torch.equal(same[0], same[2])
    assert (same[-1] == 0).all()
    zero, one = torch.zeros_like(same[1]), torch.ones_like(same[1])
    rows = (same[1], same[3], same[4], zero, zero, one)
    assert (divergence.gradient(backend, logits, logits.clone(), targets, rows, direction) == 0).all()
