import pytest
import torch
from safetensors.torch import load_file, save_file

import fastpref
from fastpref import UserError
from fastpref.train.batches import collate
from fastpref.train.model import HeadOptions, PreferenceModel, load_causal_lm, resolve_directory
from fastpref.train.reference import OnlineReference
from tests.oracle import GRADIENT_FACTOR, LOSS_FACTOR, assert_precise

from .conftest import make_llama
from .plain_dpo import first_step
from .test_batches import LAYOUTS, dataset

PACKED = LAYOUTS[0]
LENGTHS = [(3, 9, 4), (1, 1, 6), (7, 2, 13), (5, 6, 1), (2, 3, 3)]


def objective():
    return fastpref.objective("sigmoid", beta=0.1)


def triples_of(data):
    return [tuple(part.tolist() for part in data[i]) for i in range(len(data))]


@pytest.fixture
def llama():
    return make_llama(97).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_rows_equal_those_of_each_sequence_run_alone(llama, layout, attention):
    llama.set_attn_implementation(attention)
    data, pairs = dataset(LENGTHS), [4, 0, 2, 1, 3]
    model = PreferenceModel(llama, objective())
    with torch.no_grad():
        found = model.hidden_rows(collate(data, pairs, layout))
        alone = []
        for side in (1, 2):
            for i in pairs:
                ids = torch.tensor([*data[i][0], *data[i][side]])[None].long()
                alone.append(llama.model(input_ids=ids).last_hidden_state[0, len(data[i][0]) - 1 : -1])
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_equal_plain_dpo(llama, layout):
    data, reference = dataset(LENGTHS), make_llama(97, tie_word_embeddings=False)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.02 * torch.randn_like(p))
    oracle, plain = (
        first_step(llama, reference, triples_of(data), beta=0.1, lr=1e-3, max_norm=1e9, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    model = PreferenceModel(llama, objective())
    batch = collate(data, range(len(data)), layout)
    out = model(batch, OnlineReference(PreferenceModel(reference, objective())).of(batch))
    out.loss.backward()
    assert_precise(out.loss, oracle["loss"], plain["loss"], LOSS_FACTOR, what="loss")
    for name, parameter in llama.named_parameters():
        wanted = (oracle["gradients"][name], plain["gradients"][name])
        assert_precise(parameter.grad, *wanted, GRADIENT_FACTOR, what=name)


def test_policy_equal_to_reference_has_margin_exactly_zero(llama):
    model, batch = PreferenceModel(llama, objective()), collate(dataset(LENGTHS), range(5), PACKED)
    out = model(batch, OnlineReference(PreferenceModel(make_llama(97), objective())).of(batch))
    assert float(out.metrics["rewards/margins"]) == 0.0
    assert out.loss.item() == torch.tensor(2.0).log().item()


def test_bfloat16_products_on_float32_weights(llama):
    batch = collate(dataset(LENGTHS), range(5), PACKED)
    exact = PreferenceModel(llama, objective())(batch)
    rounded = PreferenceModel(llama, objective(), dtype=torch.bfloat16)(batch)
    rounded.loss.backward()
    assert llama.lm_head.weight.dtype == llama.lm_head.weight.grad.dtype == torch.float32
    assert 0 < abs((exact.loss - rounded.loss).item()) < 0.1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"final_logit_softcapping": 30.0}, HeadOptions(30.0, 1.0)),
        ({"logit_scale": 0.0625}, HeadOptions(None, 0.0625)),
        ({"logits_scaling": 4.0}, HeadOptions(None, 0.25)),
        ({}, HeadOptions(None, 1.0)),
    ],
)
def test_head_options_come_from_the_config(config, expected):
    class Config:
        def get_text_config(self):
            return self

    instance = Config()
    vars(instance).update(config)
    assert HeadOptions.of(instance) == expected


def test_loading_says_what_is_missing(model_dir, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        resolve_directory(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"config\.json is missing \(found: nothing\)"):
        resolve_directory(str(tmp_path))
    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights are missing: expected \*\.safetensors \(pickled \.bin weights"):
        resolve_directory(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(UserError, match="the tokenizer is missing"):
        resolve_directory(str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal_lm(tmp_path, device=torch.device("cpu"))
    with pytest.raises(UserError, match="expected a directory, found a file"):
        resolve_directory(str(tmp_path / "config.json"))


def test_a_hub_id_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such directory, and the hub does not give it"):
        resolve_directory("nobody-here/no-such-model")


def test_weights_that_do_not_cover_the_architecture(model_dir, tmp_path):
    tensors = load_file(model_dir / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"1 weights are missing: lm_head\.weight"):
        load_causal_lm(tmp_path, device=torch.device("cpu"))
