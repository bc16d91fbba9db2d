"""Checkpoints: everything from which a run continues bit for bit, in a directory that transformers loads as a model.

    output/checkpoint-000120/
      config.json, model.safetensors, tokenizer files      what ``from_pretrained`` reads; float32
      optimizer.safetensors                                ``{parameter}/{exp_avg, exp_avg_sq, step}``
      objective.safetensors                                the objective's state, where it carries one
      rng.safetensors                                      states of torch's generators, uint8
      trainer_state.json                                   step, position in the data, configuration, fingerprints

No pickle. A checkpoint appears by one rename when it is complete and on disk; older ones are removed only after that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_directory, recover
from ..errors import UserError
from .config import TrainConfig
from .model import without_transformers_bars

FORMAT = 1
"""Of ``trainer_state.json``; raised when older checkpoints can no longer be continued."""

_NAME = re.compile(r"checkpoint-(\d{6,})")
_REMOVING = ".removing-"
# What may differ when a run is continued: where things are and how they are shown, not what is computed. Model and data
# are compared by content.
_FREE = {
    *("model", "data", "eval_data", "output", "resume", "device", "threads", "budget_bytes", "trust_remote_code"),
    *("eval_every", "save_every", "keep_checkpoints", "log_every", "tensorboard", "gradient_checkpointing"),
}


@dataclass(frozen=True)
class TrainerState:
    """The content of ``trainer_state.json``.

    Attributes:
        step: optimiser steps done.
        epoch: epoch of the next step, counted from 0.
        cursor: pairs of that epoch that were used.
        config: the run's options.
        fingerprints: SHA-256 of the content of ``model`` and ``data``.
        format: :data:`FORMAT`.
    """

    step: int
    epoch: int
    cursor: int
    config: dict[str, Any]
    fingerprints: dict[str, str]
    format: int = FORMAT


def path_of(output: Path, step: int) -> Path:
    """Where the checkpoint after a step is."""
    return output / f"checkpoint-{step:06d}"


def all_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints in a directory, oldest first."""
    if not output.is_dir():
        return []
    recover(output)
    found = [(int(match[1]), path) for path in output.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / "trainer_state.json").is_file()]


def find(config: TrainConfig) -> Path | None:
    """The checkpoint that the ``resume`` option means; ``None`` to start anew.

    Raises:
        UserError: there is none at the given path, or continuing would leave a newer one beside it.
    """
    present = all_checkpoints(Path(config.output))
    if config.resume == "auto":
        return present[-1] if present else None
    if config.resume == "never":
        if present:
            raise UserError(f"resume=never: {present[-1]} exists; remove it or give another output")
        return None
    path = Path(config.resume)
    if not (path / "trainer_state.json").is_file():
        raise UserError(f"resume={config.resume}: is not a checkpoint (no trainer_state.json there)")
    if present and _step_of(present[-1]) > _step_of(path):
        raise UserError(
            f"resume={config.resume}: output also holds the newer {present[-1]}; remove it or give another output"
        )
    return path


def _step_of(path: Path) -> int:
    return read_state(path).step


def read_state(path: Path) -> TrainerState:
    """The trainer's state in a checkpoint.

    Raises:
        UserError: it cannot be read, or another version of fastpref wrote it.
    """
    try:
        values = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        found = values.get("format")
        if found == FORMAT:
            return TrainerState(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: trainer_state.json cannot be read: {error}") from error
    raise UserError(f"{path}: expected a checkpoint of format {FORMAT}, found {found}")


def check_compatible(state: TrainerState, path: Path, config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Refuse to continue a run as another one.

    With a constant learning rate and a warm-up in steps, the length of a run may change: nothing computed so far
    depends on it.

    Raises:
        UserError: names every option that differs, with both values.
    """
    free = set(_FREE)
    if config.schedule == "constant" and (config.warmup == 0 or config.warmup >= 1):
        free |= {"epochs", "max_steps"}
    now = dataclasses.asdict(config)
    differing = [
        f"{name}: {state.config.get(name)!r} then, {value!r} now"
        for name, value in now.items()
        if name not in free and state.config.get(name) != value
    ]
    differing += [
        f"{name}: its content has changed"
        for name, value in fingerprints.items()
        if state.fingerprints.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{path} is of another run and cannot be continued with these options: {'; '.join(differing)}. "
            "Give the same options, or another output."
        )


def save(
    output: Path,
    state: TrainerState,
    *,
    model: Any,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    objective_state: Mapping[str, Tensor],
    keep: int,
) -> Path:
    """Write a complete checkpoint, then remove all but the newest ``keep``.

    Raises:
        SaveError: the file system refused; earlier checkpoints are untouched.
    """
    from safetensors.torch import save_file

    path = path_of(output, state.step)
    with atomic_directory(path, what=f"the checkpoint of step {state.step}") as directory:
        with without_transformers_bars():
            model.save_pretrained(directory)
        _save_tokenizer(tokenizer, directory)
        save_file(_optimizer_tensors(model, optimizer), directory / "optimizer.safetensors")
        if objective_state:
            tensors = {name: value.detach().cpu().contiguous() for name, value in objective_state.items()}
            save_file(tensors, directory / "objective.safetensors")
        save_file(_rng_states(), directory / "rng.safetensors")
        text = json.dumps(dataclasses.asdict(state), indent=2)
        (directory / "trainer_state.json").write_text(text + "\n", encoding="utf-8")
    _prune(output, keep)
    return path


def _save_tokenizer(tokenizer: Any, directory: Path) -> None:
    try:
        tokenizer.save_pretrained(directory)
    except Exception as error:  # the tokenizers library reports a full disk as a bare Exception
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(directory)) from error


def restore(
    path: Path, *, model: Any, optimizer: torch.optim.Optimizer, objective_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Load the optimiser's and the generators' state of a checkpoint; the weights are loaded with the model.

    Args:
        path: the checkpoint.
        model: as saved.
        optimizer: as saved.
        objective_state: the objective's initial state; empty where it carries none.

    Returns:
        The objective's state.

    Raises:
        UserError: a file is missing or damaged, or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _load_optimizer(load_file(path / "optimizer.safetensors"), model, optimizer)
        _set_rng_states(load_file(path / "rng.safetensors"))
        return _objective_state(load_file(path / "objective.safetensors"), objective_state) if objective_state else {}
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be continued: {error}") from error


def _objective_state(found: dict[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    shapes = {name: (value.shape, value.dtype) for name, value in initial.items()}
    if {name: (value.shape, value.dtype) for name, value in found.items()} != shapes:
        raise KeyError(f"objective.safetensors: expected {sorted(initial)}, found {sorted(found)}")
    return found


def _optimizer_tensors(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.contiguous()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _load_optimizer(tensors: dict[str, Tensor], model: Any, optimizer: torch.optim.Optimizer) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        by_name.setdefault(name, {})[field] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # A parameter without a gradient so far has no state.
    state = {i: by_name.pop(names[p]) for i, p in enumerate(parameters) if names[p] in by_name}
    if by_name:
        raise KeyError(f"optimizer.safetensors has state of {next(iter(by_name))!r}, which the model does not have")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _rng_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_rng_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)


def _prune(output: Path, keep: int) -> None:
    """Remove old checkpoints; each leaves its name at once, so that a half removed one is never taken for whole."""
    for path in all_checkpoints(output)[:-keep]:
        with contextlib.suppress(OSError):
            path.rename(path.with_name(_REMOVING + path.name))
    for leftover in output.glob(f"{_REMOVING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
