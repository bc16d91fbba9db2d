"""The scratch pool: reuse, exclusive use, its bound, threads, fork; and that nothing of it reaches a caller."""

import gc
import os
import sys
import threading

import pytest
import torch

import fastpref
from fastpref import scratch
from tests import oracle

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch):
    monkeypatch.setattr(scratch, "_pool", scratch._Pool())


def take(mebibytes):
    return scratch.take(mebibytes * MIB // 4, torch.float32, CPU)


def test_memory_is_reused_when_the_last_view_is_gone():
    first = take(8)
    address, view = first.data_ptr(), first[100:200].view(10, 10)
    del first
    second = take(8)
    assert second.data_ptr() != address
    del view, second
    assert take(8).data_ptr() == address or len(scratch._pool.free) == 1  # one of the two blocks


def test_two_holders_never_share():
    held = [take(4) for _ in range(5)]
    for i, tensor in enumerate(held):
        tensor.fill_(i)
    assert all((tensor == i).all() for i, tensor in enumerate(held))
    assert len({tensor.data_ptr() for tensor in held}) == 5


def test_an_exception_gives_it_back():
    def fails():
        held = take(8)
        raise RuntimeError(str(held.shape))

    with pytest.raises(RuntimeError):
        fails()
    gc.collect()
    address = take(8).data_ptr()
    assert take(8).data_ptr() == address


def test_a_suspended_generator_keeps_its_own():
    def steps():
        held = take(8)
        for i in range(2):
            held.fill_(i)
            yield held

    running = steps()
    held = next(running)
    other = take(8)
    other.fill_(7.0)
    assert (held == 0).all()
    running.close()
    assert (held == 0).all()


def test_what_is_kept_follows_the_recent_peak():
    many = [take(8) for _ in range(4)]
    del many
    take(8)
    assert sum(b.size for b in scratch._pool.free) <= 32 * MIB
    for _ in range(2 * scratch.WINDOW):
        take(2)
    assert sum(b.size for b in scratch._pool.free) <= 4 * MIB


def test_release():
    held = take(8)
    other = take(4)
    del other
    assert scratch.release() == 4 * MIB
    assert scratch.release() == 0
    held.fill_(1.0)
    del held
    assert scratch.release() == 8 * MIB


def test_small_requests_and_empty_ones_are_torch_s():
    assert scratch.take(0, torch.float32, CPU).shape == (0,)
    assert scratch.take(1000, torch.bfloat16, CPU).dtype == torch.bfloat16
    assert scratch._pool.requests == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    tensor = scratch.take(2 * MIB, dtype, CPU)
    assert tensor.dtype == dtype
    assert tensor.shape == (2 * MIB,)
    assert tensor.data_ptr() % 64 == 0


def test_threads():
    wrong = []

    def work(number):
        for _ in range(50):
            tensor = take(2)
            tensor.fill_(number)
            if not (tensor == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert scratch._pool.used <= 8 * MIB


def test_it_comes_back_from_another_thread():
    box = [take(8)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    take(8)
    assert scratch._pool.used == 8 * MIB or not scratch._pool.free


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_writes_to_its_own_memory():
    held = take(4)
    held[:8].fill_(1.0)  # so few that the child starts no OpenMP threads
    with scratch._pool.lock:
        child = os.fork()
        if child == 0:
            held[:8].fill_(2.0)
            again = take(4)  # the lock that was held here does not stop it
            again[:8].fill_(3.0)
            os._exit(int(not (bool((held[:8] == 2).all()) and scratch._pool.requests == 1)))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (held[:8] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("plan", ["D0", "D1"])
def test_results_do_not_change_with_the_calls_that_follow(dtype, plan):
    def call(seed):
        p = oracle.make_problem(dtype, [60, 70], vocab=20_000, hidden=64, seed=seed)
        out = fastpref.linear_preference_loss(
            "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference, plan=plan
        )
        out.loss.backward()
        return [out.loss.detach(), out.logps, *p.grads()]

    scratch._pool.take(64 * MIB)  # so that a stale block exists
    first = call(0)
    copies = [t.clone() for t in first]
    call(1)
    again = call(0)
    assert scratch._pool.requests > 0
    for kept, copy, other in zip(first, copies, again, strict=True):
        assert torch.equal(kept, copy)
        assert torch.equal(kept, other)


def test_a_second_step_maps_nothing_new(monkeypatch):
    p = oracle.make_problem(torch.bfloat16, [200], vocab=20_000, hidden=64)
    mapped = []
    real = scratch._map
    monkeypatch.setattr(scratch, "_map", lambda size: mapped.append(size) or real(size))
    counts = []
    for _ in range(4):
        fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias).logps.sum().backward()
        counts.append(len(mapped))
    assert counts[0] > 0
    assert counts[1] == counts[-1]


def test_large_fresh_outputs_are_torch_s_own():
    tensor = scratch.fresh((4, 2 * MIB), torch.float32, CPU)
    tensor.fill_(1.0)
    assert scratch._pool.requests == 0
    assert tensor.untyped_storage().resizable()
    again = scratch.fresh((3,), torch.float64, CPU)
    assert again.dtype == torch.float64


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux")
def test_huge_pages_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(scratch, "_madvise", lambda: lambda *arguments: asked.append(arguments))
    scratch.fresh((scratch.LARGE_BYTES - 4,), torch.uint8, CPU)
    assert asked == []
    tensor = scratch.fresh((scratch.LARGE_BYTES,), torch.uint8, CPU)
    ((address, nbytes, _),) = asked
    assert tensor.data_ptr() <= address
    assert address + nbytes <= tensor.data_ptr() + scratch.LARGE_BYTES
    assert nbytes >= scratch.LARGE_BYTES - 8192
