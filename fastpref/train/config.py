"""The options of a training run: one dataclass for the command line, YAML files and programs.

Precedence: the command line, then the file named by ``--config``, then the defaults below. Every option is documented
once, here.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError, nearest


@dataclasses.dataclass
class TrainConfig:
    """Train a causal language model on preference pairs with one of fastpref's objectives."""

    model: str
    """Model to train, and the reference it is held against: a directory that transformers can load, or a hub id."""
    data: str
    """Training pairs: a .jsonl or .parquet file with columns prompt, chosen and rejected."""
    output: str
    """Directory for the checkpoints and log.jsonl."""
    eval_data: str | None = None
    """Held-out pairs in the same form. Evaluated before the first step, every eval_every steps, and after the last."""

    loss: str = "sigmoid"
    """Objective, under TRL's name where TRL has it (sigmoid is DPO); several joined by commas are added up (sigmoid,sft). Losses that
    are normalised by tokens, or that look at the whole batch, do so per micro-batch."""
    loss_weights: str | None = None
    """Weights of several losses, joined by commas (1.0,0.005). Default: 1 each."""
    beta: float | None = None
    """Temperature of the implicit reward: how dearly the policy pays for leaving the reference. Default: the objective's own, 0.1 for most."""
    loss_options: str | None = None
    """Further hyper-parameters of the objective, joined by commas (label_smoothing=0.1,ld_alpha=0.5); the page of losses has them."""
    reference: Literal["precomputed", "online", "none"] = "precomputed"
    """precomputed: one pass before training, log-probs cached on disk, no second model in memory. online: a frozen copy
    runs at every step. none: no reference, for objectives that need none (others become prior-free)."""

    lr: float = 1e-6
    """Peak learning rate of AdamW. 1e-6 (TRL's default) suits full fine-tuning of models of billions of parameters,
    where larger steps raise the margin by destroying the likelihood of both completions; models of some 100 M
    parameters take 5e-6 to 1e-5."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup: float = 0.1
    """Warm-up: below 1 a fraction of all steps, from 1 on a number of steps."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""
    epochs: int = 1
    """Passes over the data."""
    max_steps: int | None = None
    """Number of optimiser steps; overrides epochs."""
    batch_size: int = 4
    """Pairs per forward pass (micro-batch)."""
    gradient_accumulation: int = 1
    """Micro-batches per optimiser step; gives the gradient of one batch of batch_size * gradient_accumulation pairs."""
    seed: int = 0
    """Seed of the order of the pairs and of torch."""

    max_length: int = 1024
    """Tokens of prompt and completion together. A pair that is longer loses the beginning of its prompt, then the end
    of its completions."""
    max_prompt_length: int | None = None
    """Tokens that the prompt of a pair that is too long keeps at least, if it has them. Default: half of max_length."""

    eval_every: int | None = None
    """Steps between evaluations; without it only before the first step and after the last."""
    save_every: int = 100
    """Steps between checkpoints; there is also one after the last step and on interruption. What is lost at worst if
    the machine dies."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are removed once a newer one is complete."""
    log_every: int = 1
    """Steps between lines of log.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events to output/tensorboard (needs the tensorboard package)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the matrix products; auto is bfloat16 on a GPU and float32 on a CPU. Weights and optimiser are float32
    either way: a bfloat16 weight has 8 bits and would not move at these learning rates."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, otherwise cpu."""
    threads: int | None = None
    """CPU threads of torch. Default: torch's own choice."""
    budget_bytes: int | None = None
    """Bytes the language-model head may use for logits kept between forward and backward. Default: fastpref's planner
    decides."""
    gradient_checkpointing: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such models are refused."""
    resume: str = "auto"
    """auto: continue from the newest complete checkpoint in output, if there is one. never: start anew, refused where
    output holds checkpoints. Else: the path of a checkpoint."""

    def validate(self) -> None:
        """Check ranges and combinations.

        Raises:
            UserError: names the option, what was found and what was expected.
        """
        for name in ("lr", "beta"):
            value = getattr(self, name)
            self._require(name, value is None or 0.0 < value < float("inf"), "a finite number above 0")
        for name in ("warmup", "weight_decay", "max_grad_norm"):
            self._require(name, 0.0 <= getattr(self, name) < float("inf"), "a finite number, 0 or above")
        for name in ("epochs", "batch_size", "gradient_accumulation", "save_every", "keep_checkpoints", "log_every"):
            self._require(name, getattr(self, name) >= 1, "a whole number above 0")
        for name in ("max_steps", "eval_every", "threads", "budget_bytes"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "a whole number above 0, or nothing")
        for name, field_type in typing.get_type_hints(type(self)).items():
            if typing.get_origin(field_type) is Literal:
                choices = typing.get_args(field_type)
                self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        self._require("max_length", self.max_length >= 2, "2 or more (a prompt token and a completion token)")
        keep = self.max_prompt_length
        self._require(
            "max_prompt_length",
            keep is None or 1 <= keep < self.max_length,
            f"at least 1 and below max_length={self.max_length}",
        )
        self._require("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1")
        if self.eval_every is not None and self.eval_data is None:
            raise UserError(f"eval_every={self.eval_every}: there is no eval_data to evaluate on")

    def _require(self, name: str, ok: bool, expected: str) -> None:
        if not ok:
            raise UserError(f"{name}={getattr(self, name)!r}: expected {expected}")

    @property
    def prompt_room(self) -> int:
        """Tokens that a prompt keeps at least, if it has them, when its pair is too long."""
        return self.max_length // 2 if self.max_prompt_length is None else self.max_prompt_length


def from_mapping(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check a mapping of options, as it comes from YAML, against :class:`TrainConfig`; returns it with numbers in the
    options' types.

    YAML 1.1 reads ``1e-6`` as a string: a string is taken for a number where the option is one.

    Raises:
        UserError: an unknown option (with the nearest known one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(TrainConfig)
    checked = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{source}: unknown option {name!r}{nearest(str(name), hints)}")
        checked[name] = _convert(value, hints[name], f"{source}: {name}")
    return checked


def _convert(value: Any, expected: Any, where: str) -> Any:
    options = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if value is None and type(None) in options:
        return None
    plain = next(o for o in options if o is not type(None))
    if typing.get_origin(plain) is Literal:
        plain = str  # which strings: TrainConfig.validate
    if plain in (int, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise UserError(f"{where}: expected a number, found {value!r}") from None
    if plain is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not plain:
        raise UserError(f"{where}: expected {plain.__name__}, found {value!r} ({type(value).__name__})")
    return value


def load_yaml(path: str) -> dict[str, Any]:
    """The options in a YAML file, checked.

    Raises:
        UserError: the file cannot be read, is not YAML, is not a mapping, or :func:`from_mapping` refuses its contents.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected a mapping of options, found {type(values).__name__}")
    return from_mapping(values, path)


def parse(argv: Sequence[str], prog: str = "fastpref train") -> TrainConfig:
    """The configuration of a command line, with ``--config FILE.yaml`` read first and overridden by the other options.

    Raises:
        UserError: the file or a value is wrong. Unknown or malformed command-line options exit with status 2, as tyro
        does.
    """
    import tyro

    path, rest = _take_config_option(argv)
    values = load_yaml(path) if path is not None else {}
    required = [f.name for f in dataclasses.fields(TrainConfig) if f.default is dataclasses.MISSING]
    defaults = TrainConfig(**{**dict.fromkeys(required, tyro.MISSING), **values})
    about = (
        f"{TrainConfig.__doc__} --config FILE.yaml reads options from a file; options on the command line come first."
    )
    config = tyro.cli(TrainConfig, prog=prog, args=rest, default=defaults, description=about)
    config.validate()
    return config


def _take_config_option(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    path, rest, words = None, [], iter(argv)
    for word in words:
        if word == "--config":
            path = next(words, None)
            if path is None:
                raise UserError("--config: expected the name of a YAML file")
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
        else:
            rest.append(word)
    return path, rest
