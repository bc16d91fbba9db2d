"""The stand-in device computes what the CPU does, and lets nothing reach the host."""

import pytest
import torch

import fastpref
from tests import oracle
from tests.emulation import require_triton

require_triton()

from tests.emulation.stand_in_device import DEVICE, HostRead, stand_in_device  # noqa: E402


@pytest.fixture
def device():
    with stand_in_device() as found:
        yield found


def test_numbers_are_those_of_the_cpu_gradients_included(device):
    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    y = device.put(x)
    loss = (y @ device.put(w).t()).log_softmax(-1).square().sum()
    loss.backward()
    plain = (x @ w.t()).log_softmax(-1).square().sum()
    plain.backward()
    assert torch.equal(device.get(loss), plain.detach())
    assert torch.equal(device.get(y.grad), x.grad)
    assert y.device == loss.device == y.grad.device == DEVICE
    assert loss.is_cuda


def test_views_and_updates_in_place_share_memory(device):
    x = device.put(torch.zeros(4, 4))
    x[1:3, 0].fill_(2.0)
    part = x.view(2, 8)
    part += 1.0
    assert device.get(x)[1].tolist() == [3.0, 1.0, 1.0, 1.0]
    out = torch.empty(4, 4, device=DEVICE)
    assert torch.mm(x, x, out=out) is out
    assert torch.equal(device.get(out), device.get(x) @ device.get(x))


def test_factories_make_tensors_there(device):
    x = device.put(torch.zeros(2))
    made = [torch.empty(3, device=x.device), torch.zeros_like(x), x.new_ones(2), torch.arange(4, device="cuda")]
    assert all(t.device == DEVICE for t in made)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[0]),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.unique(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_nothing_reaches_the_host(device, read):
    with pytest.raises(HostRead):
        read(device.put(torch.ones(3)))


def test_a_copy_to_the_device_may_be_asynchronous(device):
    assert torch.zeros(3).to(DEVICE, non_blocking=True).device == DEVICE


def test_a_read_inside_an_operator_is_found(device, monkeypatch):
    from fastpref.backends.triton import TritonBackend

    stock = TritonBackend.row_stats

    def looks(self, logits, *args, **kwargs):
        stock(self, logits, *args, **kwargs)
        assert logits.sum().item() is not None

    monkeypatch.setattr(TritonBackend, "row_stats", looks)
    with pytest.raises(HostRead, match="_local_scalar_dense"):
        fastpref.logprobs(device.put(torch.randn(3, 40)), device.put(torch.tensor([0, 1, 2])), backend="triton")


def test_boundaries_on_the_host_make_the_host_wait(device):
    p = oracle.make_problem(torch.float32, [3, 2], vocab=40)
    logits, targets = device.put(p.hidden.detach() @ p.weight.detach().t()), device.put(p.targets)
    tokens = fastpref.logprobs(logits, targets, backend="triton")
    with pytest.raises(HostRead, match="from the host to the device"):
        fastpref.preference_loss("sigmoid", tokens, tokens, cu_seqlens=p.cu_seqlens, beta=0.1)


def test_it_is_gone_afterwards():
    with stand_in_device() as found:
        kept = found.put(torch.ones(2))
    assert found.get(kept).tolist() == [1.0, 1.0]
    assert torch.zeros(1).device.type == "cpu"
