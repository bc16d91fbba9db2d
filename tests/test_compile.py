"""``torch.compile(fullgraph=True)`` of the public functions gives the numbers of the plain call, gradients included."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fastpref
from tests import oracle

LENGTHS = [9, 7, 8, 6]


def linear(p, **options):
    return fastpref.linear_logprobs(p.hidden, p.weight, p.targets, bias=p.bias, **options)


def loss(objective, p, **options):
    return fastpref.linear_preference_loss(
        objective, p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, **options
    ).loss


def given(p):
    tokens = fastpref.logprobs(p.hidden @ p.weight.t(), p.targets, inplace_backward=True, stats=("entropy",))
    reference = tokens.logps.detach() * 0.9
    mixture = fastpref.preference_loss(["sigmoid", "sft"], tokens, reference, cu_seqlens=p.cu_seqlens, beta=0.1)
    return mixture.loss + tokens.entropy.sum()


def output(p):
    out = fastpref.linear_preference_loss(
        "sigmoid", p.hidden, p.weight, p.targets, p.cu_seqlens, reference=p.reference, beta=0.1
    )
    return out.loss + out.metrics["rewards/margins"] + out.losses.sum() + (out.logps - out.ref_logps).sum()


DPO = fastpref.objective("sigmoid", beta=0.1)
FORMS = {
    "logprobs": given,
    "linear_logprobs": lambda p: linear(p, softcap=20.0, temperature=0.7, stats=("log_sum_sq_probs",)).logps.sum(),
    "by object": lambda p: loss(DPO, p, reference=torch.zeros(len(LENGTHS)), plan="D3"),
    "divergence": lambda p: loss("tdpo1", p, reference=p.reference),
    "whole output": output,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_compiled_call_gives_the_numbers_of_the_plain_one(form):
    torch._dynamo.reset()
    p, q = (oracle.make_problem(torch.float32, LENGTHS, hidden=8, vocab=50, bias=True) for _ in range(2))
    value = torch.compile(form, fullgraph=True, backend="aot_eager")(p)
    value.backward()
    expected = form(q)
    expected.backward()
    assert torch.equal(value, expected)
    for got, plain in zip(p.grads(), q.grads(), strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-7)  # D1 and D3 round in another order than D0


def test_another_number_of_rows_compiles_again():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, t: fastpref.logprobs(x * 1.0, t).logps.sum(), fullgraph=True, backend="aot_eager"
    )
    whole = torch.compile(lambda p: linear(p).logps.sum(), fullgraph=True, backend="aot_eager")
    for rows in (10, 12, 17):
        x, t = torch.randn(rows, 37), torch.arange(rows)
        assert torch.equal(compiled(x, t), fastpref.logprobs(x, t).logps.sum())
        p = oracle.make_problem(torch.float32, [rows, 5], hidden=8, vocab=50, bias=True)
        torch.testing.assert_close(whole(p), linear(p).logps.sum(), rtol=1e-6, atol=0)


def test_the_compiler_is_not_imported_for_those_who_do_not_compile():
    code = "import sys, fastpref; fastpref.linear_preference_loss; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_backend_is_refused_while_tracing():
    p = oracle.make_problem(torch.float32, LENGTHS, hidden=8, vocab=50)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="expected one of auto"):
        torch.compile(lambda q: linear(q, backend="gpu").logps.sum(), fullgraph=True, backend="eager")(p)


def test_16_bit_operands_compile_whatever_runs_them():
    torch._dynamo.reset()
    p, q = (oracle.make_problem(torch.bfloat16, LENGTHS, hidden=32, vocab=90, bias=True) for _ in range(2))
    compiled = torch.compile(lambda p: linear(p).logps.sum(), fullgraph=True, backend="aot_eager")
    compiled(p).backward()
    linear(q).logps.sum().backward()
    for got, plain in zip(p.grads(), q.grads(), strict=True):
        assert torch.equal(got, plain)
