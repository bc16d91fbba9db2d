"""Preference pairs from JSONL, parquet or memory, checked record by record.

A record has ``prompt``, ``chosen`` and ``rejected``, each a string or a list of chat messages (``role``, ``content``);
one data set holds one of the two forms. In a chat record a string stands for one message: the prompt's is the user's, a
completion's the assistant's.

Whole conversations are accepted too (TRL's implicit prompt): without a ``prompt``, what ``chosen`` and ``rejected``
have in common at their beginning is the prompt: whole messages, or text up to the last white space, so that no word is
split. If there is a ``prompt`` and both completions repeat its messages (as in UltraFeedback), it is not repeated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

Message = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One preference pair; all three fields are strings, or all three are lists of messages.

    Attributes:
        where: file and line (parquet: row; memory: index) for messages to the user.
        prompt: what both completions answer; may be an empty string.
        chosen: the preferred completion, without the prompt.
        rejected: the other completion, without the prompt.
    """

    where: str
    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]

    @property
    def is_chat(self) -> bool:
        """Whether the fields are messages."""
        return isinstance(self.prompt, list)


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a ``.jsonl`` or ``.parquet`` file.

    Raises:
        UserError: the file is missing, empty or of another kind, or a record is not a pair; names file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: {'is not a file' if file.exists() else 'no such file'}")
    kinds = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if file.suffix not in kinds:
        raise UserError(f"{path}: expected a .jsonl or .parquet file, found {file.suffix or 'no extension'!r}")
    return _as_pairs(kinds[file.suffix](file), path)


def pairs_from_memory(records: Iterable[Mapping[str, Any]], name: str) -> list[Pair]:
    """The pairs of records that a program holds; ``name`` stands for the file in messages.

    Raises:
        UserError: as :func:`read_pairs`.
    """
    return _as_pairs(((f"{name}[{i}]", record) for i, record in enumerate(records)), name)


def _as_pairs(records: Iterable[tuple[str, Any]], source: str) -> list[Pair]:
    pairs: list[Pair] = []
    for where, record in records:
        pair = _as_pair(record, where)
        if pairs and pair.is_chat != pairs[0].is_chat:
            forms = ("plain strings", "chat messages")
            raise UserError(
                f"{where}: holds {forms[pair.is_chat]}, but {pairs[0].where} holds {forms[not pair.is_chat]}; "
                "a data set holds one of the two"
            )
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{source}: no records")
    return pairs


def _read_jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error


def _read_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{file}: reading parquet needs pyarrow: pip install 'fastpref[train]'") from error
    try:
        with pq.ParquetFile(file) as table:
            columns = [c for c in ("prompt", "chosen", "rejected") if c in table.schema_arrow.names]
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", record
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable parquet file: {error}") from error


def _as_pair(record: Any, where: str) -> Pair:
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected an object with prompt, chosen and rejected, found {_kind(record)}")
    for column in ("chosen", "rejected"):
        if column not in record:
            found = ", ".join(map(str, record)) or "none"
            raise UserError(f"{where}: column {column!r} is missing (columns: {found})")
    values = {c: _as_text(record[c], c, where) for c in ("prompt", "chosen", "rejected") if c in record}
    if any(isinstance(v, list) for v in values.values()):
        return _chat_pair({c: _as_messages(v, c) for c, v in values.items()}, where)
    return _plain_pair(values, where)


def _as_text(value: Any, column: str, where: str) -> Any:
    """A string or a list of well-formed messages."""
    if isinstance(value, str):
        return _encodable(value, column, where)
    if not isinstance(value, Sequence):
        raise UserError(f"{where}: {column}: expected a string or a list of messages, found {_kind(value)}")
    messages = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise UserError(f"{where}: {column}[{i}]: expected a message with role and content, found {_kind(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise UserError(f"{where}: {column}[{i}]: expected a string {key!r}, found {_kind(message.get(key))}")
            _encodable(message[key], f"{column}[{i}]", where)
        # A parquet struct has every key in every message: those without a value are not the message's.
        messages.append({k: v for k, v in message.items() if v is not None})
    return messages


def _encodable(text: str, column: str, where: str) -> str:
    """JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {column}: not a valid string: {error.reason} at character {error.start}") from None
    return text


def _as_messages(value: str | list[Message], column: str) -> list[Message]:
    if isinstance(value, list):
        return value
    return [{"role": "user" if column == "prompt" else "assistant", "content": value}]


def _plain_pair(values: Mapping[str, str], where: str) -> Pair:
    chosen, rejected = values["chosen"], values["rejected"]
    if "prompt" in values:
        prompt = values["prompt"]
    else:
        prompt = _common_text(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    _refuse_empty(where, chosen=chosen, rejected=rejected)
    return Pair(where, prompt, chosen, rejected)


def _common_text(chosen: str, rejected: str) -> str:
    """The shared beginning up to the last white space; a space goes to the completion, where tokenizers expect it, a
    line break to the prompt."""
    if chosen == rejected:
        return ""  # no prompt can be told; such a pair is dropped later
    common = chosen[: shared_length(chosen, rejected)]
    end = max(common.rfind(c) for c in " \t\n") + 1
    return common[: end - 1] if common[end - 1 : end] == " " else common[:end]


def _chat_pair(values: Mapping[str, list[Message]], where: str) -> Pair:
    chosen, rejected = values["chosen"], values["rejected"]
    prompt = values["prompt"] if "prompt" in values else _common_messages(chosen, rejected)
    if chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not prompt and chosen != rejected:
        raise UserError(f"{where}: the prompt is empty: chosen and rejected do not begin with the same message")
    _refuse_empty(where, chosen="".join(m["content"] for m in chosen), rejected="".join(m["content"] for m in rejected))
    return Pair(where, prompt, chosen, rejected)


def _common_messages(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    return [] if chosen == rejected else chosen[: shared_length(chosen, rejected)]


def _refuse_empty(where: str, **completions: str) -> None:
    for column, text in completions.items():
        if not text:
            raise UserError(f"{where}: {column}: the completion is empty")


def shared_length(*sequences: Sequence[Any]) -> int:
    """How many items the sequences have in common at their beginning."""
    return sum(
        1 for _ in itertools.takewhile(lambda items: items.count(items[0]) == len(items), zip(*sequences, strict=False))
    )


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
