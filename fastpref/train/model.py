"""The causal language model as the trainer sees it: a backbone, a linear head, and how raw logits become logits.

The head's weight is read inside :meth:`PreferenceModel.forward`, so that the hooks of DDP and FSDP, which wrap the
module, see its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..objectives import Objective
from ..preference import PreferenceOutput, linear_preference_loss
from ..token_logprobs import linear_logprobs
from .batches import Batch
from .objective import data_from_pairs

Reference = Tensor | tuple[Tensor, Tensor, Tensor | None] | None
"""Of a batch: ``[T]`` token log-probs, or ``(hidden [T, H], weight [V, H], bias [V] or None)``, or no reference."""


@dataclass(frozen=True)
class HeadOptions:
    """``logits = softcap * tanh(logit_scale * raw / softcap)`` (without a softcap: ``logit_scale * raw``)."""

    softcap: float | None = None
    logit_scale: float = 1.0

    @classmethod
    def of(cls, config: Any) -> HeadOptions:
        """What a transformers configuration says; :mod:`.probe` checks it against the model's own logits."""
        text = config.get_text_config()
        scale = getattr(text, "logit_scale", None) or 1.0  # Cohere
        scale *= getattr(text, "lm_head_multiplier", None) or 1.0  # Falcon-H1
        scale /= getattr(text, "logits_scaling", None) or 1.0  # Granite
        return cls(getattr(text, "final_logit_softcapping", None), float(scale))  # Gemma


class PreferenceModel(nn.Module):
    """A causal language model whose forward is a preference loss.

    Args:
        causal_lm: a transformers model with a backbone (``base_model``) and a linear head
            (``get_output_embeddings()``).
        objective: the loss.
        dtype: of the matrix products; float32 weights are cast where they are used (autocast).
        budget_bytes: see :func:`fastpref.linear_preference_loss`.

    Attributes:
        objective_state: the objective's state after the last training batch; part of a checkpoint.

    Raises:
        UserError: the model has no such backbone or head.
    """

    def __init__(
        self,
        causal_lm: Any,
        objective: Objective,
        *,
        dtype: torch.dtype = torch.float32,
        budget_bytes: int | None = None,
    ) -> None:
        super().__init__()
        head = causal_lm.get_output_embeddings()
        if not isinstance(head, nn.Linear) or causal_lm.base_model is causal_lm:
            raise UserError(
                f"{type(causal_lm).__name__}: expected a backbone and a linear language-model head, found none"
            )
        self.causal_lm = causal_lm
        self.objective = objective
        self.objective_state = objective.initial_state()
        self.head_options = HeadOptions.of(causal_lm.config)
        self._dtype = dtype
        self._budget_bytes = budget_bytes

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """``(weight [V, H], bias [V] or None)``."""
        linear = self.causal_lm.get_output_embeddings()
        return linear.weight, linear.bias

    @property
    def device(self) -> torch.device:
        """Where the head is, and so where batches must be."""
        return self.head[0].device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run."""
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def hidden_rows(self, batch: Batch) -> Tensor:
        """``[T, H]`` last hidden states at the positions that predict a completion token."""
        # Without a cache and a mask, transformers takes restarting position ids for packed sequences.
        states = self.causal_lm.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        return states.flatten(0, 1).index_select(0, batch.rows)

    def forward(self, batch: Batch, reference: Reference = None) -> PreferenceOutput:
        """The loss and its metrics; the loss is the mean over the batch's items.

        In training mode the objective's state goes on with the batch; in evaluation mode it is used and left alone.
        """
        with self.autocast():
            weight, bias = self.head
            out = linear_preference_loss(
                self.objective,
                self.hidden_rows(batch),
                weight,
                batch.targets,
                batch.cu_seqlens,
                bias=bias,
                reference=reference,
                softcap=self.head_options.softcap,
                logit_scale=self.head_options.logit_scale,
                budget_bytes=self._budget_bytes,
                state=self.objective_state,
                **data_from_pairs(self.objective, len(batch.pairs), batch.targets.device),
            )
        if self.training:
            self.objective_state = out.state
        return out

    @torch.no_grad()
    def token_logprobs(self, batch: Batch) -> Tensor:
        """``[T]`` log-probabilities of the completion tokens, float32."""
        with self.autocast():
            weight, bias = self.head
            return linear_logprobs(
                self.hidden_rows(batch),
                weight,
                batch.targets,
                bias=bias,
                softcap=self.head_options.softcap,
                logit_scale=self.head_options.logit_scale,
                budget_bytes=self._budget_bytes,
            ).logps


def resolve_directory(name: str, *, trust_remote_code: bool = False) -> Path:
    """The local directory of a model: the directory ``name`` itself, or a hub id's snapshot, fetched if it is not there
    yet.

    Raises:
        UserError: neither; or a directory that is not a model's, saying what is missing.
    """
    directory = Path(name)
    if not directory.exists():
        if directory.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise UserError(f"model {name}: no such directory")
        directory = _fetch(name, trust_remote_code)
    if not directory.is_dir():
        raise UserError(f"model {name}: expected a directory, found a file")
    files = sorted(p.name for p in directory.iterdir())
    shown = ", ".join(files[:8]) + (", ..." if len(files) > 8 else "") or "nothing"
    if "config.json" not in files:
        raise UserError(f"model {name}: is not a model's directory: config.json is missing (found: {shown})")
    if not any(file.endswith(".safetensors") for file in files):
        kind = (
            " (pickled .bin weights are not loaded: they can run code)"
            if any(f.endswith(".bin") for f in files)
            else ""
        )
        raise UserError(f"model {name}: weights are missing: expected *.safetensors{kind} (found: {shown})")
    if not any(file in files for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"model {name}: the tokenizer is missing: expected tokenizer.json (found: {shown})")
    return directory


def _fetch(name: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises its own errors and those of whichever HTTP library it uses
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"model {name}: no such directory, and the hub does not give it: {reason}") from error


def load_causal_lm(directory: Path, *, device: torch.device, trust_remote_code: bool = False) -> Any:
    """The float32 model in a directory, without dropout, on ``device``.

    Raises:
        UserError: it cannot be loaded, or its weights do not cover the architecture.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        with without_transformers_bars():
            model, info = load(
                directory,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"model {directory}: cannot be loaded: {error}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if found := sorted(map(str, info.get(problem) or ())):
            shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise UserError(f"model {directory}: {len(found)} weights are {problem.removesuffix('_keys')}: {shown}")
    disable_dropout(model)
    return model.to(device)


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """No progress bars of transformers' own within the trainer's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a model's directory. Raises ``UserError`` where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(f"model {directory}: the tokenizer cannot be loaded: {error}") from error


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0, in modules and in the attributes from which attention layers read theirs.

    Policy and reference must be the same function while their weights are, or the loss does not start at margin 0.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if (name == "p" and "Drop" in type(module).__name__) or (
                "drop" in name.lower() and isinstance(value, float)
            ):
                setattr(module, name, 0.0)
