import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastpref
from fastpref.train.batches import collate
from fastpref.train.model import PreferenceModel
from fastpref.train.reference import OnlineReference, cache_key, model_fingerprint, precomputed_reference

from .conftest import make_llama
from .test_batches import LAYOUTS, dataset

PACKED = LAYOUTS[0]
LENGTHS = [(3, 9, 4), (1, 1, 6), (7, 2, 13), (5, 6, 1), (2, 3, 3)]


class Counted:
    """Gives the model and counts how often it was asked for."""

    def __init__(self):
        self.model, self.calls = PreferenceModel(make_llama(97), fastpref.objective("sigmoid")), 0

    def __call__(self):
        self.calls += 1
        return self.model


def make(counted, key="key", lengths=LENGTHS):
    return precomputed_reference(dataset(lengths), key, counted, layout=PACKED, batch_size=2, check=lambda: None)


@pytest.mark.parametrize("pairs", [[0, 1, 2, 3, 4], [3, 1], [2]])
def test_precomputed_equals_online(pairs):
    counted = Counted()
    batch = collate(dataset(LENGTHS), pairs, PACKED)
    precomputed = make(counted).of(batch)
    assert precomputed.shape == batch.targets.shape
    direct = counted.model.token_logprobs(batch)
    torch.testing.assert_close(precomputed, direct, rtol=0, atol=5e-6)
    online = counted.model(batch, OnlineReference(counted.model).of(batch))
    assert float(online.metrics["rewards/margins"]) == 0.0
    assert abs(float(counted.model(batch, precomputed).metrics["rewards/margins"])) < 1e-5


def test_second_time_comes_from_the_cache(own_cache):
    first, second = Counted(), Counted()
    batch = collate(dataset(LENGTHS), [0, 3], PACKED)
    expected = make(first).of(batch)
    assert torch.equal(make(second).of(batch), expected)
    assert (first.calls, second.calls) == (1, 0)
    assert [p.name for p in (own_cache / "reference").iterdir()] == ["key.safetensors"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other key", "other shape"])
def test_a_damaged_cache_is_computed_anew(own_cache, damage, caplog):
    batch = collate(dataset(LENGTHS), [0, 3], PACKED)
    expected = make(Counted()).of(batch)
    file = own_cache / "reference" / "key.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-3])
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "other key":
        make(Counted(), key="other")
        (own_cache / "reference" / "other.safetensors").replace(file)
    else:
        save_file({"logps": load_file(file)["logps"][:-1]}, file)
    counted = Counted()
    with caplog.at_level(logging.WARNING, "fastpref"):
        assert torch.equal(make(counted).of(batch), expected)
    assert counted.calls == 1
    assert "computed anew" in caplog.text
    repaired = Counted()
    assert torch.equal(make(repaired).of(batch), expected)
    assert repaired.calls == 0


def test_the_key_depends_on_everything(model_dir, tmp_path):
    data, other = dataset(LENGTHS), dataset(LENGTHS, seed=1)
    print_ = model_fingerprint(model_dir)
    keys = {
        cache_key(print_, data, torch.float32),
        cache_key("0", data, torch.float32),
        cache_key(print_, other, torch.float32),
        cache_key(print_, data, torch.bfloat16),
    }
    assert len(keys) == 4
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    assert model_fingerprint(tmp_path) == print_
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, tmp_path / "model.safetensors")
    assert model_fingerprint(tmp_path) != print_


def test_a_cache_that_cannot_be_written_is_a_warning(own_cache, caplog):
    own_cache.mkdir()
    (own_cache / "reference").write_text("a file where the directory should be")
    batch = collate(dataset(LENGTHS), [0, 3], PACKED)
    with caplog.at_level(logging.WARNING, "fastpref"):
        assert make(Counted()).of(batch).shape == batch.targets.shape
    assert "not cached" in caplog.text
