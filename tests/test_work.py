"""The counter of matrix products and live bytes."""

import gc

import pytest
import torch

import fastpref
from fastpref import work
from fastpref.scratch import POOLED_BYTES, take
from tests import oracle


@pytest.mark.parametrize(
    ("run", "flops"),
    [
        (lambda a, b: torch.mm(a, b), 2 * 3 * 4 * 5),
        (lambda a, b: torch.mm(a, b, out=torch.empty(3, 5)), 2 * 3 * 4 * 5),
        (lambda a, b: torch.addmm(torch.zeros(5), a, b), 2 * 3 * 4 * 5),
        (lambda a, b: torch.zeros(3, 5).addmm_(a, b), 2 * 3 * 4 * 5),
        (lambda a, b: torch.bmm(a.expand(2, 3, 4), b.expand(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda a, b: a + 1, 0),
    ],
)
def test_matrix_products_are_counted(run, flops):
    with work.count_gemm() as count:
        run(torch.ones(3, 4), torch.ones(4, 5))
    assert count.flops == flops
    assert count.calls == (flops > 0)


def test_products_inside_operators_and_their_backward_are_counted():
    p = oracle.make_problem(torch.float32, [9], bias=False, ignored=0.0)
    with work.count_gemm() as count:
        out = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, plan="D0")
        assert count.flops == 2 * p.hidden.numel() * 301
        out.logps.sum().backward()
    assert count.flops == 8 * p.hidden.numel() * 301


def test_native_work_is_reported_to_every_count_under_way():
    work.add(5)
    with work.count_gemm() as outer:
        work.add(7)
        with work.count_gemm() as inner:
            work.add(11)
    work.add(13)
    assert (outer.flops, inner.flops) == (18, 11)


def test_live_bytes_are_those_of_new_tensors():
    given = torch.ones(1000)
    with work.count_gemm() as count:
        view = given[10:]
        view.mul_(2.0)
        assert count.live_bytes == 0
        a = torch.ones(1000)
        b = a * 2
        assert count.live_bytes == 8000
        del a, b
        gc.collect()
        assert count.live_bytes == 0
    assert count.peak_bytes == 8000


def test_scratch_of_the_pool_counts_while_it_is_in_use():
    elements = 2 * POOLED_BYTES
    with work.count_gemm() as count:
        held = take(elements, torch.float32, torch.device("cpu"))
        view = held[5:].zero_()
        del held
        gc.collect()
        assert count.live_bytes == 4 * elements
        del view
        gc.collect()
        assert count.live_bytes == 0
    assert count.peak_bytes == 4 * elements
