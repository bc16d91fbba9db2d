"""A tiny made-up Llama model in GGUF form, written by the gguf package, and the transformers model that it stands for."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS = 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he"]
TOKENS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def model() -> LlamaForCausalLM:
    """Random weights, already rounded as the GGUF file rounds them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )
    result = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in result.named_parameters():
            value.normal_(1.0 if "norm" in name else 0.0, 0.3)
            value.copy_(torch.from_numpy(dequantize(quantize(value.numpy(), kind(name)), kind(name))))
    return result


def kind(name: str) -> Kind:
    """What SmolLM2's file uses for this parameter."""
    if "norm" in name:
        return Kind.F32
    return Kind.Q8_0 if "embed" in name else Kind.Q4_1


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of Q and K (convert_hf_to_gguf.py: permute)."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write(path: Path, source: LlamaForCausalLM, *, pre: str = "smollm") -> None:
    """Write ``source`` as a GGUF file."""
    config = source.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, parameter in source.named_parameters():
        value = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            value = interleave(value, HEADS if "q_proj" in name else KV_HEADS)
        target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(name)
        if target is None:
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            target = f"blk.{layer}.{NAMES[part]}.weight"
        writer.add_tensor(target, quantize(value, kind(name)), raw_dtype=kind(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
