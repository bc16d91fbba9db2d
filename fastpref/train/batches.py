"""Which pairs a step takes, and how they are laid out for the backbone.

*Packed*: the sequences of a batch are laid end to end in a few rows of about equal length, with position ids that
restart at each, so that transformers masks attention between them. *Padded*: one sequence per row, for models that
would mix packed sequences. In both, only the positions that predict a completion token go on to the head, as packed
rows, chosen sequences first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..packing import cu_seqlens_from_lengths
from .tokenization import TokenizedPairs


@dataclass(frozen=True)
class Layout:
    """How batches are laid out.

    Attributes:
        packed: several sequences per row; otherwise one, padded.
        hidden_size: of the model; how long a row may be before attention over the whole of it costs more than padding.
    """

    packed: bool
    hidden_size: int = 1024


@dataclass(frozen=True)
class Batch:
    """N pairs, K = 2N sequences, T completion tokens, in R rows of L positions.

    A sequence's last token predicts nothing and is not run.

    Attributes:
        pairs: ``[N]`` their indices in the data set.
        input_ids: ``[R, L]`` int64.
        position_ids: ``[R, L]`` int64, restarting at each sequence; ``None`` where padded.
        attention_mask: ``[R, L]`` bool, false on padding; ``None`` where packed.
        rows: ``[T]`` int64, the position in the flattened ``[R * L]`` that predicts each target.
        targets: ``[T]`` int64 completion tokens: of the N chosen, then of the N rejected.
        cu_seqlens: ``[K + 1]`` int32, on the host, where fastpref's planner reads it.
    """

    pairs: list[int]
    input_ids: Tensor
    position_ids: Tensor | None
    attention_mask: Tensor | None
    rows: Tensor
    targets: Tensor
    cu_seqlens: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch with what the model reads on ``device``."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            self.pairs,
            move(self.input_ids),
            None if self.position_ids is None else move(self.position_ids),
            None if self.attention_mask is None else move(self.attention_mask),
            move(self.rows),
            move(self.targets),
            self.cu_seqlens,
        )


def collate(data: TokenizedPairs, pairs: Sequence[int], layout: Layout, *, pad_id: int = 0) -> Batch:
    """The batch of these pairs.

    Args:
        data: the data set.
        pairs: ``[N]`` indices into it.
        layout: packed or padded.
        pad_id: a token id that the model knows; what it computes there is never used.
    """
    triples = [data[i] for i in pairs]
    prompts = [prompt for prompt, _, _ in triples] * 2
    completions = [chosen for _, chosen, _ in triples] + [rejected for _, _, rejected in triples]
    texts = [np.concatenate([p, c[:-1]]) for p, c in zip(prompts, completions, strict=True)]
    lengths = [len(t) for t in texts]
    places = _pack(lengths, layout.hidden_size) if layout.packed else [(k, 0) for k in range(len(texts))]
    count = 1 + max(row for row, _ in places)
    width = max(start + length for (_, start), length in zip(places, lengths, strict=True))

    input_ids = np.full((count, width), pad_id, dtype=np.int64)
    used = np.zeros((count, width), dtype=np.bool_)
    # Padding is a sequence of its own at the end of a row, with positions that restart like any other's.
    position_ids = np.zeros((count, width), dtype=np.int64)
    filled = np.zeros(count, dtype=np.int64)
    rows = []
    for (row, start), prompt, text in zip(places, prompts, texts, strict=True):
        end = start + len(text)
        input_ids[row, start:end] = text
        position_ids[row, start:end] = np.arange(len(text))
        used[row, start:end] = True
        filled[row] = max(filled[row], end)
        rows.append(np.arange(row * width + start + len(prompt) - 1, row * width + end))
    for row, end in enumerate(filled.tolist()):
        position_ids[row, end:] = np.arange(width - end)

    return Batch(
        list(pairs),
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids) if layout.packed else None,
        None if layout.packed else torch.from_numpy(used),
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate(completions).astype(np.int64)),
        cu_seqlens_from_lengths(torch.tensor([len(c) for c in completions])),
    )


def _pack(lengths: Sequence[int], hidden_size: int) -> list[tuple[int, int]]:
    """Row and start of each sequence, for the number of rows that costs least.

    A position costs about ``24 * hidden_size**2`` FLOPs per layer in matrix products and ``4 * width * hidden_size`` in
    attention over its row. Few rows waste no padding but attend far; one row per sequence is the other extreme.
    """

    def cost(places: list[tuple[int, int]]) -> int:
        width = max(start + length for (_, start), length in zip(places, lengths, strict=True))
        return (1 + max(row for row, _ in places)) * width * (6 * hidden_size + width)

    return min((_balance(lengths, rows) for rows in range(1, len(lengths) + 1)), key=cost)


def _balance(lengths: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """Row and start of each sequence: longest first, always into the row that is shortest so far."""
    filled = [(0, row) for row in range(rows)]
    places = [(0, 0)] * len(lengths)
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        start, row = heapq.heappop(filled)
        places[k] = (row, start)
        heapq.heappush(filled, (start + lengths[k], row))
    return places


class PairOrder:
    """The pairs of every step: a new seeded permutation per epoch, cut into steps; an epoch's last step may be smaller.

    A function of the step alone: to resume, the step is all that must be known.
    """

    def __init__(self, size: int, per_step: int, seed: int) -> None:
        self.steps_per_epoch = -(-size // per_step)
        self._size, self._per_step, self._seed = size, per_step, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def position(self, step: int) -> tuple[int, int]:
        """``(epoch, cursor)``: the epoch of a step, counted from 0, and how many of its pairs came before."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch, index * self._per_step

    def pairs(self, step: int) -> list[int]:
        """Indices of the pairs of a step, both counted from 0."""
        epoch, cursor = self.position(step)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self._size, generator=generator)
        return self._permutation[cursor : cursor + self._per_step].tolist()


def micro_batches(pairs: Sequence[int], size: int) -> list[Sequence[int]]:
    """Consecutive runs of at most ``size`` pairs."""
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]
