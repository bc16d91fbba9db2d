"""``bench/logits_given.py`` at toy sizes: every way gives the same loss and gradient, and the tables are whole."""

import json
import sys

import logits_given
import pytest
import torch
from logits_given import BACKWARDS, OTHERS, Given, Problem

from fastpref.backends import load

pytestmark = pytest.mark.skipif(isinstance(load("cpu"), str), reason=f"no native module: {load('cpu')}")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """A compilation takes longer than the whole suite; TRL's import too."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setitem(sys.modules, "trl.trainer.utils", None)


def forms(p: Problem):
    stage = load("cpu").stage
    mine = (logits_given.in_place, logits_given.into_buffer(stage, torch.zeros_like(p.policy)), logits_given.ours)
    return {**dict(zip(BACKWARDS, mine, strict=True)), **logits_given.others(p, list(OTHERS))}


def test_every_way_gives_the_loss_and_gradient_of_float64():
    p = Problem(16, 4, 96, torch.float32)
    wide = p.policy.double().requires_grad_()
    sums = (
        (logits_given.eager(wide, p.targets) - logits_given.eager(p.reference.double(), p.targets)).view(4, -1).sum(-1)
    )
    chosen, rejected = sums.chunk(2)
    loss = -torch.nn.functional.logsigmoid(logits_given.BETA * (chosen - rejected)).mean()
    (expected,) = torch.autograd.grad(loss, wide)
    seen: dict[str, torch.Tensor] = {}
    for name, form in forms(p).items():
        p.working.copy_(p.policy)
        logits = Given.apply(p.anchor, p.working)
        logits.register_hook(lambda grad, name=name: seen.update({name: grad.clone()}))
        ours = form(p, logits)
        ours.backward()
        assert ours.item() == pytest.approx(loss.item(), rel=1e-5), name
        torch.testing.assert_close(seen[name].double(), expected, rtol=1e-4, atol=1e-8, msg=name)


def test_only_the_form_in_place_overwrites_the_logits():
    p = Problem(16, 4, 96, torch.bfloat16)
    for name, form in forms(p).items():
        p.working.copy_(p.policy)
        p.backward(form)()
        assert torch.equal(p.working, p.policy) == (name != BACKWARDS[0]), name


def test_a_run_writes_every_number(tmp_path, capsys):
    path = tmp_path / "given.json"
    run = ["--rows", "16", "--vocabs", "96", "--repeats", "1", "--check", "--json", str(path)]
    status = logits_given.main(run)
    printed = capsys.readouterr().out
    assert ("FAILS" in printed) == bool(status)
    assert "our own writing of TRL's" in printed
    tables = json.loads(path.read_text())["tables"]
    assert [(table["task"], table["dtype"]) for table in tables] == [
        (task, dtype) for dtype in ("float32", "bfloat16") for task in ("forward", "forward+backward")
    ]
    for table in tables:
        assert table["shares"][table["best"]] > 0
        assert table["ratios"][table["best"]] == 1.0
        # A share of memory, and a ratio to each of the other three.
        assert len(logits_given.checks([table])) == 4
