"""The reference's log-probabilities: computed once and cached on disk, or by a frozen copy at every step.

Cached are token log-probs (4 bytes per completion token), from which every objective can form what it needs. The file's
name is a hash of all that they depend on; its metadata holds a checksum of the numbers. A file that does not verify is
computed anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._files import cache_dir, sha256, write_atomic
from ..errors import UserError
from .batches import Batch, Layout, collate, micro_batches
from .model import PreferenceModel, Reference
from .tokenization import TokenizedPairs

CACHE_VERSION = 1
"""Part of every key; raised when the same inputs would give other numbers."""

_log = logging.getLogger(__name__)


class ReferenceSource(Protocol):
    """Gives the reference of a batch, on the batch's device."""

    def of(self, batch: Batch) -> Reference:
        """What :meth:`PreferenceModel.forward` takes."""
        ...


class NoReference:
    """For objectives without a reference."""

    def of(self, batch: Batch) -> Reference:
        """Nothing."""
        return None


class OnlineReference:
    """A frozen model that runs on every batch; its head runs in the same pass as the policy's."""

    def __init__(self, model: PreferenceModel) -> None:
        self._model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def of(self, batch: Batch) -> Reference:
        """``(hidden, weight, bias)``."""
        with self._model.autocast():
            return (self._model.hidden_rows(batch), *self._model.head)


class PrecomputedReference:
    """Token log-probs of a whole data set, on the host.

    Args:
        logps: ``[total completion tokens]`` float32: of each pair in the data set's order, chosen, then rejected.
        data: the data set.
    """

    def __init__(self, logps: Tensor, data: TokenizedPairs) -> None:
        lengths = np.diff(data.offsets).reshape(-1, 3)[:, 1:]
        self._logps = logps
        self._starts = np.cumsum([0, *lengths.ravel()])

    def of(self, batch: Batch) -> Reference:
        """``[T]`` in the batch's order."""
        return torch.cat([self._sequence(2 * i + side) for side in (0, 1) for i in batch.pairs]).to(
            batch.targets.device
        )

    def _sequence(self, k: int) -> Tensor:
        return self._logps[self._starts[k] : self._starts[k + 1]]


def cache_key(model_fingerprint: str, data: TokenizedPairs, dtype: torch.dtype) -> str:
    """A hash of all that a data set's reference log-probs depend on.

    The model's fingerprint covers its weights and its configuration, so the head's options too.
    """
    parts = [CACHE_VERSION, model_fingerprint, data.fingerprint(), str(dtype)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def model_fingerprint(directory: Path) -> str:
    """SHA-256 over the content of a model's configuration and weights."""
    files = [directory / "config.json", *sorted(directory.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps([(f.name, sha256(f)) for f in files]).encode()).hexdigest()


def precomputed_reference(
    data: TokenizedPairs,
    key: str,
    model: Callable[[], PreferenceModel],
    *,
    layout: Layout,
    batch_size: int,
    check: Callable[[], None],
) -> PrecomputedReference:
    """The cached log-probs of a data set, computed first where the cache does not have them.

    Args:
        data: the data set.
        key: from :func:`cache_key`.
        model: called for the reference model if it is needed.
        layout: of the batches.
        batch_size: pairs per forward pass.
        check: called between passes; may raise.
    """
    path = cache_dir() / "reference" / f"{key}.safetensors"
    logps = _load(path, key, data)
    if logps is None:
        logps = _compute(data, model().eval(), layout, batch_size, check)
        try:
            write_atomic(path, _serialise(logps, key), what="the reference's log-probabilities")
        except OSError as error:
            _log.warning("the reference's log-probabilities are not cached: %s", error)
    return PrecomputedReference(logps, data)


def _compute(
    data: TokenizedPairs, model: PreferenceModel, layout: Layout, batch_size: int, check: Callable[[], None]
) -> Tensor:
    from tqdm import tqdm

    pieces: list[Sequence[Tensor]] = []
    for pairs in tqdm(micro_batches(range(len(data)), batch_size), desc="reference", disable=None, leave=False):
        check()
        batch = collate(data, pairs, layout).to(model.device)
        try:
            logps = model.token_logprobs(batch).cpu()
        except ValueError as error:  # fastpref refuses NaN where it can look
            where = "; ".join(data.where[i] for i in pairs)
            raise UserError(f"the reference's log-probabilities cannot be computed: {error}. Pairs: {where}") from error
        sequences = logps.split(batch.cu_seqlens.diff().tolist())
        chosen, rejected = sequences[: len(pairs)], sequences[len(pairs) :]
        pieces += list(zip(chosen, rejected, strict=True))
    return torch.cat([sequence for pair in pieces for sequence in pair])


def _serialise(logps: Tensor, key: str) -> bytes:
    from safetensors.torch import save

    return save({"logps": logps}, metadata={"key": key, "checksum": _checksum(logps)})


def _load(path: Path, key: str, data: TokenizedPairs) -> Tensor | None:
    """The log-probs in a file, or ``None`` if there is none that verifies."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            logps = file.get_tensor("logps")
        count = int(np.diff(data.offsets).reshape(-1, 3)[:, 1:].sum())
        if metadata.get("key") == key and metadata.get("checksum") == _checksum(logps) and logps.shape == (count,):
            return logps
        reason = "its content does not verify"
    except (OSError, SafetensorError) as error:
        reason = str(error)
    _log.warning("reference log-probabilities in %s: %s; they are computed anew", path, reason)
    return None


def _checksum(logps: Tensor) -> str:
    return hashlib.sha256(logps.numpy().tobytes()).hexdigest()
