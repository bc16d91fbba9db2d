"""Pairs to token ids: chat template, a stable boundary between prompt and completion, truncation, and what is left out.

Boundary. The prompt is tokenised alone, as it will be when the model generates. A completion is tokenised together with
its prompt and is what follows the prompt's tokens; where a token would straddle the boundary, it is tokenised alone
instead. So both completions of a pair follow the same prompt tokens. Plain completions end with the end-of-sequence
token; a chat template closes its messages itself.

Truncation. A pair with more than ``max_length`` tokens loses the beginning of its prompt (never the
beginning-of-sequence token) down to ``prompt_room`` tokens, then the end of its completions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .data import Message, Pair, shared_length

Ids = NDArray[np.int32]
_CHUNK = 512  # pairs per call of the tokenizer, which works on them in parallel


@dataclass(frozen=True)
class TokenizedPairs:
    """N pairs as flat arrays: a data set of any size is three objects.

    Attributes:
        tokens: ``[total]`` int32; prompt, chosen and rejected of each pair, end to end.
        offsets: ``[3N + 1]`` int64 boundaries in ``tokens``.
        where: ``[N]`` file and line of each pair.
    """

    tokens: Ids
    offsets: NDArray[np.int64]
    where: list[str]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, i: int) -> tuple[Ids, Ids, Ids]:
        """``(prompt, chosen, rejected)`` ids of pair ``i``."""
        a, b, c, d = self.offsets[3 * i : 3 * i + 4]
        return self.tokens[a:b], self.tokens[b:c], self.tokens[c:d]

    def longest(self) -> int:
        """Tokens of the longest sequence, prompt and completion."""
        prompt, chosen, rejected = np.diff(self.offsets).reshape(-1, 3).T
        return int((prompt + np.maximum(chosen, rejected)).max())

    def fingerprint(self) -> str:
        """SHA-256 of the token ids and their boundaries."""
        digest = hashlib.sha256(self.offsets.tobytes())
        digest.update(self.tokens.tobytes())
        return digest.hexdigest()


@dataclass
class DataReport:
    """What happened to the pairs of a data set.

    Attributes:
        kept: pairs that are used.
        truncated: how many of them were cut to ``max_length``.
        skipped: reason -> file and line of the pairs that are not used.
    """

    kept: int = 0
    truncated: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Sentences for the user; nothing where all pairs are used whole."""
        lines = []
        if self.truncated:
            lines.append(f"pairs cut to max_length: {self.truncated} of {self.kept}")
        for reason, where in self.skipped.items():
            examples = "; ".join(where[:3]) + ("; ..." if len(where) > 3 else "")
            lines.append(f"pairs skipped because {reason}: {len(where)} ({examples})")
        return lines


def tokenize(
    pairs: Sequence[Pair], tokenizer: Any, *, max_length: int, prompt_room: int
) -> tuple[TokenizedPairs, DataReport]:
    """Token ids of all pairs that can be used.

    Args:
        pairs: the pairs, all plain or all chat.
        tokenizer: a transformers tokenizer.
        max_length: tokens of prompt and completion together.
        prompt_room: tokens that the prompt of a pair that is too long keeps at least, if it has them.

    Returns:
        The tokenised pairs, and what was cut or left out.

    Raises:
        UserError: messages without a chat template, a template that refuses them, an empty prompt where the tokenizer
            has no start token, or no pair left.
    """
    report = DataReport()
    pieces: list[Ids] = []
    where: list[str] = []
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if same := [pair.where for pair in pairs if pair.chosen == pair.rejected]:
        report.skipped["chosen and rejected are the same"] = same
    for pair, (prompt, chosen, rejected) in _encode_all(different, tokenizer):
        fitted = _fit(prompt, chosen, rejected, max_length, prompt_room, tokenizer.bos_token_id)
        if not chosen or not rejected:
            reason = "a completion has no tokens"
        elif fitted[1] == fitted[2]:
            reason = "chosen and rejected are the same after truncation or tokenisation"
        else:
            report.kept += 1
            report.truncated += fitted != (prompt, chosen, rejected)
            pieces += [np.asarray(ids, dtype=np.int32) for ids in fitted]
            where.append(pair.where)
            continue
        report.skipped.setdefault(reason, []).append(pair.where)
    if not pieces:
        raise UserError("no pair is left to train on: " + "; ".join(report.lines()))
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return TokenizedPairs(np.concatenate(pieces), offsets, where), report


def _encode_all(pairs: Sequence[Pair], tokenizer: Any) -> Iterator[tuple[Pair, tuple[list[int], list[int], list[int]]]]:
    """Every pair with the ids of its prompt and of its completions without the prompt."""
    from tqdm import tqdm

    chat = bool(pairs) and pairs[0].is_chat
    if chat and not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{pairs[0].where}: holds chat messages, but the model's tokenizer has no chat template")
    appends_eos = not chat and tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]

    def ids_of(texts: list[str], special: bool) -> list[list[int]]:
        ids = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
        return [i[:-1] for i in ids] if special and appends_eos else ids

    for start in tqdm(range(0, len(pairs), _CHUNK), desc="tokenising", disable=None, leave=False):
        chunk = pairs[start : start + _CHUNK]
        texts = [_render(pair, tokenizer) if chat else _plain(pair) for pair in chunk]
        prompts = ids_of([prompt for prompt, _, _ in texts], special=not chat)
        completions = []
        for side in (1, 2):
            whole = ids_of([text[0] + text[side] for text in texts], special=not chat)
            alone = ids_of([text[side] for text in texts], special=False)
            completions.append(
                [w[len(p) :] if w[: len(p)] == p else a for w, p, a in zip(whole, prompts, alone, strict=True)]
            )
        for pair, prompt, chosen, rejected in zip(chunk, prompts, *completions, strict=True):
            if not chat:
                chosen, rejected = (_with_eos(ids, tokenizer.eos_token_id) for ids in (chosen, rejected))
            yield pair, (prompt or _start_token(tokenizer, pair), chosen, rejected)


def _plain(pair: Pair) -> tuple[str, str, str]:
    return cast("tuple[str, str, str]", (pair.prompt, pair.chosen, pair.rejected))


def _render(pair: Pair, tokenizer: Any) -> tuple[str, str, str]:
    """The texts of a chat pair under the model's template: prompt, and what each completion adds to it."""
    prompt, chosen, rejected = cast("tuple[list[Message], ...]", (pair.prompt, pair.chosen, pair.rejected))
    from jinja2 import TemplateError

    try:
        opens_answer = prompt[-1]["role"] != "assistant"
        before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=opens_answer)
        with_chosen = tokenizer.apply_chat_template(prompt + chosen, tokenize=False)
        with_rejected = tokenizer.apply_chat_template(prompt + rejected, tokenize=False)
    except (TemplateError, TypeError, KeyError) as error:
        raise UserError(f"{pair.where}: the model's chat template refuses these messages: {error}") from error
    # Some templates open an answer differently than they record one (reasoning models): the prompt is what all three
    # share.
    if with_chosen.startswith(before) and with_rejected.startswith(before):
        end = len(before)
    else:
        end = shared_length(before, with_chosen, with_rejected)
    return before[:end], with_chosen[end:], with_rejected[end:]


def _with_eos(ids: list[int], eos: int | None) -> list[int]:
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def _start_token(tokenizer: Any, pair: Pair) -> list[int]:
    """The first completion token needs a token before it, also where the prompt is empty."""
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if start is not None:
            return [start]
    raise UserError(f"{pair.where}: prompt: is empty, and the tokenizer has no token to start a text with")


def _fit(
    prompt: list[int], chosen: list[int], rejected: list[int], max_length: int, prompt_room: int, bos: int | None
) -> tuple[list[int], list[int], list[int]]:
    longest = max(len(chosen), len(rejected))
    if len(prompt) + longest <= max_length:
        return prompt, chosen, rejected
    keep = min(len(prompt), max(max_length - longest, prompt_room))
    if keep < len(prompt):
        starts = prompt[:1] == [bos] and keep > 1
        prompt = prompt[:1] + prompt[1 - keep :] if starts else prompt[-keep:]
    return prompt, chosen[: max_length - keep], rejected[: max_length - keep]
