"""``log.jsonl``: one JSON object per line, every step at most once, also over interruptions; TensorBoard beside it
where asked for."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from .._files import saving, write_atomic
from ..errors import UserError

Record = dict[str, Any]

_log = logging.getLogger(__name__)


class RunLog:
    """The log of a run, continued after a step.

    What an earlier process wrote about later steps is dropped: they are run again.

    Args:
        path: of ``log.jsonl``.
        after: the last step to keep; 0 starts anew.
        tensorboard: directory for TensorBoard events, or ``None``.

    Raises:
        UserError: TensorBoard is asked for but not installed.
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path, *, after: int, tensorboard: Path | None = None) -> None:
        self.records = _read(path, after) if after else []
        write_atomic(path, "".join(map(_line, self.records)), what="the log")
        self._path = path
        self._file = path.open("ab", buffering=0)  # a line that failed is not tried again when the file is closed
        self._board = None if tensorboard is None else _open_board(tensorboard, after)

    def write(self, record: Record) -> None:
        """Append a record; it has a ``step``. Raises ``SaveError`` where the disk is full."""
        self.records.append(record)
        with saving("the log", self._path):
            rest = _line(record).encode()
            while rest:
                rest = rest[self._file.write(rest) :]
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, record["step"])

    def sync(self) -> None:
        """Wait until all lines have reached the disk."""
        with saving("the log", self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def _read(path: Path, last: int) -> list[Record]:
    """The records up to a step; a line that a killed process left half written is dropped."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        _log.warning("%s is gone: the log continues after step %d", path, last)
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and record.get("step", last + 1) <= last:
            records.append(record)
    return records


def _open_board(directory: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard: is asked for, but not installed: pip install tensorboard") from error
    return SummaryWriter(str(directory), purge_step=after + 1)
