"""A tiny Llama with a byte-level tokenizer, made here: no download, about 0.1 M parameters."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fastpref.train import TrainConfig

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, plus the merge ``he`` so that a token can straddle the boundary of prompt and completion."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(["<pad>", "<s>", "</s>", *alphabet, "he"])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_llama(vocab: int, **options) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **options,
    )
    return LlamaForCausalLM(config)


def make_pairs(count: int) -> list[dict[str, str]]:
    """Pairs of different lengths; the chosen completion is the polite one."""
    names = ["Ann", "Bob", "Christopher", "Di", "Eleanor"]
    return [
        {
            "prompt": f"Greet {names[i % 5]} on day {i}:",
            "chosen": f" Good day, dear {names[i % 5]}!" + " Welcome." * (i % 3),
            "rejected": " What?" + "!" * (i % 4),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, tokenizer) -> Path:
    path = tmp_path_factory.mktemp("tiny-llama")
    make_llama(len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(12)))
    return path


@pytest.fixture
def config(model_dir, pairs_file, tmp_path) -> TrainConfig:
    return TrainConfig(
        model=str(model_dir),
        data=str(pairs_file),
        output=str(tmp_path / "run"),
        lr=1e-3,
        batch_size=2,
        gradient_accumulation=2,
        max_steps=6,
        threads=1,
        device="cpu",
    )
