"""The module gives what the function gives."""

import pytest
import torch

import fastpref
from fastpref.nn import LinearPreferenceLoss
from tests import oracle


def test_module_equals_function():
    p, q = (oracle.make_problem(torch.float32, [5, 3, 4, 6]) for _ in range(2))
    module = LinearPreferenceLoss("sigmoid", beta=0.3, temperature=0.8, plan="D0")
    found = module(p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, reference=p.reference)
    wanted = fastpref.linear_preference_loss(
        fastpref.objective("sigmoid", beta=0.3), q.hidden, q.weight, q.targets, q.cu_seqlens, bias=q.bias, reference=q.reference,
        temperature=0.8, plan="D0",
    )  # fmt: skip
    found.loss.backward()
    wanted.loss.backward()
    assert found.loss.item() == wanted.loss.item()
    assert all(torch.equal(a, b) for a, b in zip(p.grads(), q.grads(), strict=True))
    assert "DPO(beta=0.3," in repr(module)


def test_unknown_option():
    with pytest.raises(TypeError, match="temprature"):
        LinearPreferenceLoss("sigmoid", temprature=1.0)
