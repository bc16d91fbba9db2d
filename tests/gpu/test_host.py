"""What the host may not do on the hot path: wait for the device, or stand between ``torch.compile`` or a CUDA graph and the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

import fastpref
from tests import oracle

from .problems import on

pytestmark = pytest.mark.gpu

BETA = 0.3


def given(p: oracle.Problem, backend: str) -> torch.Tensor:
    tokens = fastpref.logprobs(p.hidden @ p.weight.t(), p.targets, backend=backend, inplace_backward=True)
    reference = fastpref.logprobs(p.ref_hidden @ p.ref_weight.t(), p.targets, backend=backend)
    return fastpref.preference_loss("sigmoid", tokens, reference, cu_seqlens=p.cu_seqlens, beta=BETA).loss


def given_in_one_call(p: oracle.Problem, backend: str) -> torch.Tensor:
    return fastpref.logits_preference_loss(
        "sigmoid", p.hidden @ p.weight.t(), p.targets, p.cu_seqlens, reference=p.ref_hidden @ p.ref_weight.t(), beta=BETA,
        inplace_backward=True, backend=backend,
    ).loss  # fmt: skip


def linear(plan: str, **options: object) -> Callable[[oracle.Problem, str], torch.Tensor]:
    def loss(p: oracle.Problem, backend: str) -> torch.Tensor:
        return fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference, beta=BETA,
            plan=plan, backend=backend, **options,
        ).loss  # fmt: skip

    return loss


FORMS = {
    "logits given": given,
    "logits given, one call": given_in_one_call,
    "recomputed": linear("D0"),
    "kept, softcap": linear("D3", softcap=6.0, temperature=0.7),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def problem(device) -> oracle.Problem:
    lengths = device.pick([500, 300, 400, 600], [5, 4, 6, 3])
    hidden, vocab = device.pick((256, 32000), (24, 301))
    return on(oracle.make_problem(torch.bfloat16, lengths, hidden, vocab), device.torch)


@contextmanager
def no_waiting(device, p: oracle.Problem) -> Iterator[tuple[oracle.Problem, Callable[[torch.Tensor], torch.Tensor]]]:
    """``(problem, fetch)``: the problem on a device for which the host must not wait, and how to read what was found, afterwards."""
    if device.on_gpu:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield p, lambda tensor: tensor.detach()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    from tests.emulation.stand_in_device import stand_in_device

    with stand_in_device() as stand_in:
        moved = {name: value if value is None else stand_in.put(value) for name, value in vars(p).items()}
        yield oracle.Problem(**moved), stand_in.get


@forms
def test_the_host_never_waits(device, backend, form):
    warm = problem(device)
    form(warm, backend).backward()  # kernels are compiled, and libraries set up, before
    with no_waiting(device, problem(device)) as (p, fetch):
        loss = form(p, backend)
        loss.backward()
        grads = [p.hidden.grad, p.weight.grad]
    expected = problem(device).at(torch.float64)
    bias = expected.bias
    if form in (given, given_in_one_call):
        expected.bias = expected.ref_bias = None
    options = {"softcap": 6.0, "temperature": 0.7} if form is FORMS["kept, softcap"] else {}
    wanted = oracle.linear_dpo(expected, BETA, **options)
    wanted.backward()
    expected.bias = bias
    assert abs(fetch(loss).item() - wanted.item()) < 2e-2
    for found, exact in zip(grads, (expected.hidden.grad, expected.weight.grad), strict=True):
        assert (fetch(found).double() - exact).norm() < 3e-2 * exact.norm()


@forms
def test_a_whole_step_compiles_into_one_graph(device, backend, form):
    torch._dynamo.reset()
    p, q = problem(device), problem(device)
    compiled = torch.compile(form, fullgraph=True, backend=device.pick("inductor", "aot_eager"))
    loss, expected = compiled(p, backend), form(q, backend)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)
    for a, b in zip((p.hidden.grad, p.weight.grad), (q.hidden.grad, q.weight.grad), strict=True):
        assert (a.double() - b.double()).norm() <= 1e-2 * b.double().norm()


@forms
def test_a_captured_graph_replays_on_new_numbers(device, backend, form):
    device.only_on_gpu(twin="test_the_host_never_waits")
    p, other = problem(device), problem(device)
    with torch.no_grad():
        other.hidden.mul_(0.5)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            form(p, backend).backward()
    torch.cuda.current_stream().wait_stream(stream)
    leaves = [p.hidden, p.weight]
    for leaf in (*leaves, p.bias):
        leaf.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = form(p, backend)
        loss.backward()
    with torch.no_grad():
        p.hidden.copy_(other.hidden)
    graph.replay()
    expected = form(other, backend)
    expected.backward()
    assert torch.equal(loss, expected)
    for a, b in zip(leaves, (other.hidden, other.weight), strict=True):
        assert torch.equal(a.grad, b.grad)
