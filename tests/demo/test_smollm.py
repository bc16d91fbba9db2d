"""Converting a GGUF model into a Hugging Face directory: once, completely, and equal to the model it was made from."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
from fastpref._files import sha256  # noqa: E402
from fastpref.demo.fetch import Asset  # noqa: E402
from fastpref.demo.smollm import convert, prepare_model  # noqa: E402
from fastpref.errors import UserError  # noqa: E402
from tests.demo import made_up_gguf as made_up  # noqa: E402


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A wheel with a tiny model, where one provided by hand would be."""
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path / "cache"))
    made_up.write(tmp_path / "tiny.gguf", made_up.model())
    path = tmp_path / "cache" / "demo" / "downloads" / "tiny-1-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny/Tiny.Q4_1.gguf")
        archive.writestr("tiny-1.dist-info/LICENSE", "do as you like")
    return Asset("tiny", "1", path.name, sha256(path), path.stat().st_size)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    made_up.write(tmp_path / "tiny.gguf", made_up.model())
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(tmp_path / "tiny.gguf", directory)
    return directory


class TestConvert:
    def test_the_model_is_the_one_it_was_made_from(self, converted: Path) -> None:
        ours = transformers.AutoModelForCausalLM.from_pretrained(converted)
        source = made_up.model()
        assert isinstance(ours, transformers.LlamaForCausalLM)
        assert ours.dtype == torch.float32
        assert ours.lm_head.weight is ours.model.embed_tokens.weight
        for (name, value), (other, expected) in zip(ours.named_parameters(), source.named_parameters(), strict=True):
            assert name == other
            assert torch.equal(value, expected), name
        ids = torch.arange(40).reshape(2, 20)
        with torch.no_grad():
            assert torch.equal(ours(ids).logits, source(ids).logits)
        assert (ours.config.bos_token_id, ours.config.eos_token_id, ours.config.pad_token_id) == (1, 2, 2)
        assert ours.generation_config.eos_token_id == 2

    def test_the_tokenizer(self, converted: Path) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(converted)
        assert len(tokenizer) == len(made_up.TOKENS)
        assert tokenizer.tokenize("the the 42<|im_end|>") == ["t", "he", "Ġthe", "Ġ", "4", "2", "<|im_end|>"]
        text = "Grüße,\n\tzwei  Wörter 😀 <|im_start|>"
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
        assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
        assert tokenizer.model_max_length == 128
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        assert chat == "<|im_start|>user\nhi<|im_end|>\n"

    def test_all_files_are_equally_readable(self, converted: Path) -> None:
        assert len({path.stat().st_mode for path in converted.iterdir()}) == 1

    def test_refuses_another_kind_of_tokenizer(self, tmp_path: Path) -> None:
        made_up.write(tmp_path / "tiny.gguf", made_up.model(), pre="llama-bpe")
        with pytest.raises(
            ValueError, match=r"expected .* llama, gpt2, smollm; found \('llama', 'gpt2', 'llama-bpe'\)"
        ):
            convert(tmp_path / "tiny.gguf", tmp_path)


class TestPrepareModel:
    def test_once(self, asset: Asset) -> None:
        said: list[str] = []
        directory = prepare_model(asset, progress=said.append)
        assert said == ["converting SmolLM2-135M-Instruct to float32 (540 MB, once)"]
        assert (directory / "LICENSE").read_text() == "do as you like"
        transformers.AutoModelForCausalLM.from_pretrained(directory)
        (asset.directory / asset.filename).unlink()  # no longer needed
        assert prepare_model(asset, progress=pytest.fail) == directory

    def test_interrupted(self, asset: Asset) -> None:
        def interrupt(text: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare_model(asset, progress=interrupt)
        assert not list(asset.directory.parent.glob("*SmolLM2*"))
        assert prepare_model(asset, progress=lambda text: None).is_dir()

    @pytest.mark.parametrize("damage", ["cut short", "missing", "other source", "no record"])
    def test_damaged(self, asset: Asset, damage: str) -> None:
        directory = prepare_model(asset, progress=lambda text: None)
        weights, record = directory / "model.safetensors", directory / "fastpref_source.json"
        whole = weights.read_bytes()
        if damage == "cut short":
            weights.write_bytes(whole[:-100])
        elif damage == "missing":
            (directory / "tokenizer.json").unlink()
        elif damage == "other source":
            record.write_text(json.dumps({**json.loads(record.read_text()), "source_sha256": "0" * 64}))
        else:
            record.unlink()
        said: list[str] = []
        assert prepare_model(asset, progress=said.append) == directory
        assert said[0] == f"{directory} is incomplete or from another version: converting it again"
        assert weights.read_bytes() == whole
        assert (directory / "tokenizer.json").exists()
        assert prepare_model(asset, progress=pytest.fail) == directory

    def test_without_transformers(self, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)  # Python's way to make a module missing
        with pytest.raises(UserError, match=r"^the demo needs transformers: pip install 'fastpref\[train\]'$"):
            prepare_model(asset)
