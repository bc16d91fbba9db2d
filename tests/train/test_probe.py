import pytest
import torch
import transformers

import fastpref
from fastpref import UserError
from fastpref.train.batches import collate
from fastpref.train.model import PreferenceModel, disable_dropout
from fastpref.train.probe import probe

from .conftest import make_llama
from .test_batches import dataset

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "pad_token_id": 0}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
ARCHITECTURES = {
    "Llama": ("packed", {**SMALL, **HEADS}),
    "Qwen3": ("packed", {**SMALL, **HEADS, "head_dim": 8}),
    "Gemma2": ("packed", {**SMALL, **HEADS, "head_dim": 8, "final_logit_softcapping": 0.5}),
    "Cohere": ("packed", {**SMALL, **HEADS, "logit_scale": 0.5}),
    "Granite": ("packed", {**SMALL, **HEADS, "logits_scaling": 3.0}),
    "Phi": ("packed", {**SMALL, **HEADS, "num_key_value_heads": 4}),  # a head with a bias
    "GPT2": ("packed", {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "Bloom": ("padded", {**SMALL, "n_head": 4}),  # takes no position ids
    "OPT": ("padded", {**SMALL, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "FalconH1": ("padded", {**SMALL, **HEADS, **MAMBA, "lm_head_multiplier": 0.5}),  # its state-space layers leak
}


def build(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**ARCHITECTURES[name][1])
    causal_lm = transformers.AutoModelForCausalLM.from_config(config).float()
    if (bias := causal_lm.get_output_embeddings().bias) is not None:
        torch.nn.init.normal_(bias)
    disable_dropout(causal_lm)
    return PreferenceModel(causal_lm, fastpref.objective("sigmoid"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layout_and_log_probs_of_architectures(name):
    policy = build(name)
    assert probe(policy).packed == (ARCHITECTURES[name][0] == "packed")
    data = dataset([(3, 9, 4), (1, 1, 6), (7, 2, 5)])
    batch = collate(data, [0, 1, 2], probe(policy))
    found = policy.eval().token_logprobs(batch)
    with torch.no_grad():
        alone = []
        for side in (1, 2):
            for i in range(3):
                ids = torch.tensor([*data[i][0], *data[i][side]])[None].long()
                logps = policy.causal_lm(input_ids=ids).logits[0, :-1].log_softmax(-1)
                alone.append(logps.gather(-1, ids[0, 1:, None]).squeeze(-1)[len(data[i][0]) - 1 :])
        loss = policy(batch)
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-5)
    sums = torch.stack([logps.double().sum() for logps in alone])
    torch.testing.assert_close(loss.logps, sums, rtol=1e-5, atol=1e-5)


def test_a_model_that_mixes_packed_sequences_is_padded(monkeypatch):
    policy = PreferenceModel(make_llama(97), fastpref.objective("sigmoid"))
    assert probe(policy).packed
    inner = policy.causal_lm.model.forward
    monkeypatch.setattr(
        policy.causal_lm.model, "forward", lambda *args, position_ids=None, **kwargs: inner(*args, **kwargs)
    )
    assert not probe(policy).packed


def test_an_unknown_head_is_refused():
    policy = PreferenceModel(make_llama(97), fastpref.objective("sigmoid"))
    policy.causal_lm.lm_head.register_forward_hook(lambda module, args, out: out * 1.5)
    with pytest.raises(UserError, match=r"LlamaForCausalLM: this architecture computes its logits .* does not know"):
        probe(policy)


def test_dropout_is_switched_off_or_refused():
    policy = PreferenceModel(make_llama(97, attention_dropout=0.5), fastpref.objective("sigmoid"))
    with pytest.raises(UserError, match="training mode adds noise"):
        probe(policy)
    disable_dropout(policy)
    assert probe(policy).packed
    assert policy.causal_lm.config.attention_dropout == 0.5  # the model's own configuration is saved as it was


def test_mode_is_kept():
    policy = PreferenceModel(make_llama(97), fastpref.objective("sigmoid")).train()
    probe(policy)
    assert policy.training
    assert policy.causal_lm.model.training
