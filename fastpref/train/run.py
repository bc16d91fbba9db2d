"""``train()``: from the options to a finished run."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..objectives import Objective
from . import checkpoint
from .batches import Layout
from .config import TrainConfig
from .data import Pair, pairs_from_memory, read_pairs
from .evaluation import Split
from .loop import Callback, Loop, TrainResult
from .model import PreferenceModel, load_causal_lm, load_tokenizer, resolve_directory
from .objective import objective_of
from .output import exclusive
from .probe import probe
from .reference import (
    NoReference,
    OnlineReference,
    ReferenceSource,
    cache_key,
    model_fingerprint,
    precomputed_reference,
)
from .signals import Interrupted, StopRequest
from .tokenization import TokenizedPairs, tokenize

_log = logging.getLogger(__name__)


def require_extra() -> None:
    """Raise ``UserError`` where the packages of the ``train`` extra are not installed."""
    needed = {
        "transformers": "transformers",
        "safetensors": "safetensors",
        "tyro": "tyro",
        "yaml": "pyyaml",
        "tqdm": "tqdm",
        "jinja2": "jinja2",
    }
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"training needs {', '.join(missing)}: pip install 'fastpref[train]'")


def train(
    config: TrainConfig,
    *,
    train_pairs: Iterable[Mapping[str, Any]] | None = None,
    eval_pairs: Iterable[Mapping[str, Any]] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train as ``config`` says, from the newest checkpoint in ``config.output`` if there is one.

    Interrupted by SIGINT or SIGTERM, it finishes its step, saves a checkpoint and returns; run again with the same
    options, it continues with the same losses as if it had not been interrupted (bit for bit on a CPU with the same
    number of threads).

    Args:
        config: the options.
        train_pairs: records ``{"prompt", "chosen", "rejected"}`` to use instead of the file ``config.data``, which then
            only names them in messages.
        eval_pairs: the same for ``config.eval_data``.
        callbacks: called with every record of the log and the policy.

    Returns:
        The result; its ``checkpoint`` is a directory that ``from_pretrained`` loads.

    Raises:
        UserError: an option, the data or the model is wrong, or the loss is not finite.
        SaveError: the disk refused a checkpoint or the log.

    Example:
        >>> from fastpref.train import TrainConfig, train
        >>> config = TrainConfig(model="my-model", data="pairs.jsonl", output="runs/dpo", lr=5e-6)
        >>> result = train(config)  # doctest: +SKIP
        >>> result.history[-1]["rewards/accuracies"]  # doctest: +SKIP
        0.91
    """
    require_extra()
    config.validate()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    config = dataclasses.replace(config, dtype=_dtype_name(config.dtype, device))
    loss = objective_of(config)
    pairs = {"training": _pairs(config.data, train_pairs)}
    if eval_pairs is not None or config.eval_data is not None:
        pairs["held-out"] = _pairs(config.eval_data or "eval_pairs", eval_pairs)
    directory = resolve_directory(config.model, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(directory, trust_remote_code=config.trust_remote_code)
    data = [_tokenized(kind, part, tokenizer, config) for kind, part in pairs.items()]
    fingerprints = {"model": model_fingerprint(directory), "data": data[0].fingerprint()}

    def load(source: Path) -> PreferenceModel:
        causal_lm = load_causal_lm(source, device=device, trust_remote_code=config.trust_remote_code)
        dtype = getattr(torch, config.dtype)
        return PreferenceModel(causal_lm, loss, dtype=dtype, budget_bytes=config.budget_bytes)

    with exclusive(Path(config.output)), StopRequest() as stop:
        resumed, step = checkpoint.find(config), 0
        if resumed is not None:
            state = checkpoint.read_state(resumed)
            checkpoint.check_compatible(state, resumed, config, fingerprints)
            step = state.step
            _log.info("continuing from %s", resumed)
        torch.manual_seed(config.seed)
        policy = load(resumed or directory)
        _check_fits(policy, data)
        layout = probe(policy)
        if not layout.packed:
            _log.info("%s does not keep packed sequences apart: batches are padded", type(policy.causal_lm).__name__)
        initial_is_loaded = resumed is None and config.reference == "precomputed"
        try:
            references = _references(
                config,
                loss,
                data,
                lambda: policy if initial_is_loaded else load(directory),
                fingerprints["model"],
                layout,
                stop.check,
            )
        except Interrupted as reason:
            return TrainResult(step, 0, resumed, [], reason.signal, policy, tokenizer)
        if config.gradient_checkpointing:
            _recompute_activations(policy.causal_lm)
        optimizer = _optimizer(policy, config)
        if resumed is not None:
            policy.objective_state = checkpoint.restore(
                resumed, model=policy.causal_lm, optimizer=optimizer, objective_state=policy.objective_state
            )
        training, *held_out = map(Split, data, references)
        return Loop(
            config,
            policy,
            tokenizer,
            optimizer,
            training,
            held_out[0] if held_out else None,
            layout,
            fingerprints,
            stop,
            callbacks,
            step,
            resumed,
        ).run()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name!r}: cannot be used: {error}") from error
    return device


def _dtype_name(name: str, device: torch.device) -> Any:
    if name == "auto":
        return "float32" if device.type == "cpu" else "bfloat16"
    return name


def _pairs(path: str, records: Iterable[Mapping[str, Any]] | None) -> list[Pair]:
    return read_pairs(path) if records is None else pairs_from_memory(records, path)


def _tokenized(kind: str, pairs: Sequence[Pair], tokenizer: Any, config: TrainConfig) -> TokenizedPairs:
    data, report = tokenize(pairs, tokenizer, max_length=config.max_length, prompt_room=config.prompt_room)
    _log.info("%d %s pairs", len(data), kind)
    for line in report.lines():
        _log.warning("%s data: %s", kind, line)
    return data


def _check_fits(policy: PreferenceModel, data: Sequence[TokenizedPairs]) -> None:
    """Ids that the model has no row for, and sequences that it has no positions for, would crash deep inside it."""
    config = policy.causal_lm.config.get_text_config()
    rows = min(policy.head[0].shape[0], policy.causal_lm.get_input_embeddings().weight.shape[0])
    positions = getattr(config, "max_position_embeddings", None)
    for part in data:
        if (top := int(part.tokens.max())) >= rows:
            raise UserError(
                f"the tokenizer gives token id {top}, but the model has {rows}: they do not belong together"
            )
        if positions is not None and (longest := part.longest()) > positions:
            raise UserError(
                f"max_length: the longest sequence has {longest} tokens, but the model has {positions} positions; "
                f"give max_length={positions} or less"
            )


def _references(
    config: TrainConfig,
    loss: Objective,
    data: Sequence[TokenizedPairs],
    load: Callable[[], PreferenceModel],
    fingerprint: str,
    layout: Layout,
    check: Callable[[], None],
) -> list[ReferenceSource]:
    """The reference of each data set; the initial model is loaded at most once, and only if it must run."""
    if config.reference == "none" or loss.traits.reference == "none":
        return [NoReference() for _ in data]
    if config.reference == "online":
        online = OnlineReference(load())
        return [online for _ in data]
    loaded: list[PreferenceModel] = []

    def model() -> PreferenceModel:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    return [
        precomputed_reference(
            part,
            cache_key(fingerprint, part, getattr(torch, config.dtype)),
            model,
            layout=layout,
            batch_size=config.batch_size,
            check=check,
        )
        for part in data
    ]


def _recompute_activations(causal_lm: Any) -> None:
    old_name = "gradient_checkpointing_enable"
    enable = getattr(causal_lm, "activation_checkpointing_enable", None) or getattr(causal_lm, old_name)
    enable({"use_reentrant": False})


def _optimizer(policy: PreferenceModel, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # One pass over weights, gradients and moments in place of several; on a CPU the default is four times slower.
    fused = policy.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
