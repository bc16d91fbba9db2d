"""Peak memory against what the plan says, and offsets above 2^31 elements."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

import fastpref
from fastpref import work
from tests import oracle

from .problems import on

pytestmark = pytest.mark.gpu

SLACK_BYTES = 4096
"""The data, and sums per sequence; rounded up to the allocator's blocks on a GPU."""

GPU_SLACK_BYTES = 16 << 20
"""Workspaces of the GEMM library come from the same allocator."""

FAR = 2**31
"""Elements: what a 32-bit offset cannot reach."""


@contextmanager
def leaving_no_cycles() -> Iterator[None]:
    """The interpreter leaves a launch's tensors in reference cycles: collect them, as a real launch leaves none."""
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def then_collect(self: object, *args: object, **kwargs: object) -> None:
        launch(self, *args, **kwargs)
        gc.collect()

    gc.collect()
    gc.freeze()  # what is there already need not be looked at each time
    try:
        with mock.patch.object(interpreter.GridExecutor, "__call__", then_collect):
            yield
    finally:
        gc.unfreeze()


def peak_of(device, run: Callable[[], object]) -> int:
    """Bytes allocated at most while ``run`` runs, above those before."""
    if not device.on_gpu:
        with leaving_no_cycles(), work.count_gemm() as count:
            run()
        return count.peak_bytes
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("plan", ["D0", "D1", "D2", "D3"])
def test_peak_memory_is_what_the_plan_says(device, backend, plan):
    lengths = device.pick([500, 300, 400, 600], [10, 7, 8, 5])
    hidden, vocab = device.pick((512, 50257), (32, 800))
    p = on(oracle.make_problem(torch.bfloat16, lengths, hidden, vocab, ignored=0.0), device.torch)
    plans = []

    def run() -> None:
        out = fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens.cpu(), bias=p.bias, reference=p.reference, beta=0.1,
            plan=plan, backend=backend, budget_bytes=1 << 31,
        )  # fmt: skip
        out.loss.backward()
        plans.append(out.plan)

    if device.on_gpu:
        run()  # kernels are compiled, and libraries have their workspaces
        p.hidden.grad = p.weight.grad = p.bias.grad = None
    gradients = sum(t.numel() * t.element_size() for t in (p.hidden, p.weight, p.bias))
    peak = peak_of(device, run)
    assert peak <= plans[-1].scratch_bytes + gradients + device.pick(GPU_SLACK_BYTES, SLACK_BYTES), plans[-1]
    full = sum(lengths) * vocab * 2 * (2 + 1)  # 16-bit logits of policy and reference, and a gradient
    if plan == "D0" and device.on_gpu:
        assert peak - gradients < full / 2


def far_apart(device, rows: int, columns: int, stride: int) -> torch.Tensor:
    """bfloat16 ``[rows, columns]`` whose rows are ``stride`` elements apart: memory of the whole on a GPU, of what is touched on the CPU."""
    elements = (rows - 1) * stride + columns
    if device.on_gpu:
        free, _ = torch.cuda.mem_get_info()
        if free < 2 * elements + (1 << 30):
            pytest.skip(f"needs {2 * elements / 2**30:.1f} GiB of free GPU memory, found {free / 2**30:.1f}")
        flat = torch.empty(elements, dtype=torch.bfloat16, device=device.torch)
    else:
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0)
        pages = mmap.mmap(-1, 2 * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
        flat = torch.frombuffer(pages, dtype=torch.bfloat16)
    return flat.as_strided((rows, columns), (stride, 1))


@pytest.mark.parametrize("stride", [FAR // 2 + 8, FAR + 8])
def test_rows_beyond_32_bit_offsets(device, backend, stride):
    if device.on_gpu and stride > FAR // 2 + 8:
        pytest.skip("needs no more than the first stride does on a GPU")
    rows, columns = device.pick((3, 128256), (3, 1003))
    source = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).mul_(3).bfloat16().to(device.torch)
    logits = far_apart(device, rows, columns, stride)
    logits.copy_(source)
    targets = torch.tensor([1, columns - 1, columns // 2], device=device.torch)
    near = source.clone().requires_grad_()
    expected = fastpref.logprobs(near * 1, targets, backend=backend, inplace_backward=True)
    expected.logps.sum().backward()
    loaded, transform = fastpref.backends.load(backend), fastpref.backends.LogitTransform()
    out = fastpref.logprobs(logits, targets, backend=backend)
    assert torch.equal(out.logps, expected.logps)
    one = torch.ones(rows, device=device.torch)
    loaded.row_grad(logits, targets, out.lse, one, one, logits, col0=0, transform=transform)
    assert torch.equal(logits, near.grad)


def test_columns_beyond_32_bit_offsets_of_the_whole(device, backend):
    """One long vocabulary in few rows: the last row begins beyond 2^31, and its target is in its last column."""
    device.only_on_gpu(twin="test_rows_beyond_32_bit_offsets")
    vocab = 151936
    rows = FAR // vocab + 2
    if torch.cuda.mem_get_info()[0] < 3 * rows * vocab * 2:
        pytest.skip("needs 13 GiB of free GPU memory")
    logits = torch.zeros(rows, vocab, dtype=torch.bfloat16, device=device.torch)
    logits[-1, -1] = 5.0
    targets = torch.full((rows,), vocab - 1, device=device.torch)
    found = fastpref.logprobs(logits, targets, backend=backend).logps
    flat = -torch.tensor(float(vocab), dtype=torch.float64).log()
    last = 5.0 - (vocab - 1 + torch.tensor(5.0, dtype=torch.float64).exp()).log()
    torch.testing.assert_close(found[:-1].double().cpu(), flat.expand(rows - 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[-1].double().cpu(), last, rtol=1e-5, atol=1e-5)
