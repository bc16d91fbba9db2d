import dataclasses

import pytest

from fastpref import UserError
from fastpref.train.config import TrainConfig, from_mapping, parse

REQUIRED = ["--model", "m", "--data", "d.jsonl", "--output", "o"]


def test_command_line_overrides_yaml_overrides_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ndata: d.jsonl\noutput: o\nlr: 1e-5\nbatch_size: 8\ntensorboard: true\nmax_steps: null\n")
    config = parse(["--config", str(file), "--batch-size", "2", "--no-tensorboard"])
    assert (config.model, config.lr, config.batch_size, config.tensorboard) == ("m", 1e-5, 2, False)
    assert config.beta == TrainConfig("m", "d", "o").beta


def test_required_options_may_come_from_either_side(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ndata: d.jsonl\n")
    assert parse([f"--config={file}", "--output", "o"]).output == "o"
    with pytest.raises(SystemExit) as stop:
        parse(["--config", str(file)])
    assert stop.value.code == 2


def test_unknown_key_suggests_the_nearest(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nlearning_rate: 1\nbatchsize: 2\n")
    with pytest.raises(UserError, match=r"run.yaml: unknown option 'learning_rate'"):
        parse(["--config", str(file)])
    with pytest.raises(UserError, match=r"unknown option 'batchsize'; did you mean 'batch_size'\?"):
        from_mapping({"batchsize": 2}, "run.yaml")


def test_unknown_command_line_option_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        parse([*REQUIRED, "--batchsize", "2"])
    assert stop.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "fast"}, "lr: expected a number, found 'fast'"),
        ({"batch_size": 2.5}, "batch_size: expected int, found 2.5"),
        ({"tensorboard": 1}, "tensorboard: expected bool, found 1"),
        ({"epochs": True}, "epochs: expected int, found True"),
        ({"model": None}, "model: expected str, found None"),
    ],
)
def test_wrong_types_in_yaml(values, message):
    with pytest.raises(UserError, match=message):
        from_mapping(values, "run.yaml")


def test_yaml_numbers_take_the_type_of_the_option():
    assert from_mapping({"lr": "5e-7", "beta": 1, "max_steps": "1e3"}, "x") == {
        "lr": 5e-7,
        "beta": 1.0,
        "max_steps": 1000,
    }


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", ""])
def test_a_file_that_is_no_mapping(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml"):
        parse(["--config", str(file)])


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        parse(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="expected the name of a YAML file"):
        parse(["--config"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr=0.0: expected a finite number above 0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"warmup": -0.1}, "warmup=-0.1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"schedule": "step"}, "schedule='step': expected one of linear, cosine, constant"),
        ({"max_length": 1}, "max_length=1"),
        ({"max_length": 8, "max_prompt_length": 8}, "max_prompt_length=8: expected at least 1 and below max_length=8"),
        ({"eval_every": 5}, "eval_every=5: there is no eval_data"),
    ],
)
def test_ranges(options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TrainConfig("m", "d", "o"), **options).validate()


def test_a_prompt_keeps_half_of_the_length_unless_told_otherwise():
    config = TrainConfig("m", "d", "o", max_length=9)
    assert config.prompt_room == 4
    assert dataclasses.replace(config, max_prompt_length=7).prompt_room == 7


def test_help_documents_every_option(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
