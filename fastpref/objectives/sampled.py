"""What losses on sampled sequences share: data of one number per sequence, and the log-probs under the policy that sampled them."""

from __future__ import annotations

from torch import Tensor

from .batch import SequenceBatch


def require_per_sequence(objective: str, batch: SequenceBatch, *names: str) -> None:
    """``[K]``, of data that other objectives may take as ``[T]``."""
    for name in names:
        value = batch.data.get(name)
        if value is not None and value.shape != batch.policy.shape:
            raise ValueError(
                f"{name}: {objective} takes one per sequence; expected shape [{batch.policy.shape[0]}], found {list(value.shape)}"
            )


def old_sums(batch: SequenceBatch) -> Tensor | None:
    """``[K]`` sequence log-probs of the sampling policy from ``old_logps [K]`` or ``[T]`` (plain token sums); ``None`` where not given.

    Raises:
        ValueError: token log-probs where only sequence sums of the policy exist.
    """
    old = batch.data.get("old_logps")
    if old is None or old.shape == batch.policy.shape:
        return old
    if batch.tokens is None:
        raise ValueError(f"old_logps: expected shape [{batch.policy.shape[0]}], found {list(old.shape)}")
    return batch.tokens.sums(old)
