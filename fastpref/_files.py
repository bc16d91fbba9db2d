"""Files that survive a kill, a full disk and a second process.

The promise: a path written here is, at every moment a process can be killed or the power can fail, either the complete old
content or the complete new one. A file is swapped by one rename. A directory cannot be, portably, so each writer works in a
*workspace* beside the target and a reader calls :func:`recover` before it looks:

    parent/
      name                     what readers see
      .name.saving-XXXXXXXX/   one writer's workspace, removed when it is done
        lock                   held while the writer lives, so that only a dead writer's workspace is ever cleaned up
        building               incomplete, never read
        complete               written and flushed to the disk, about to become ``name``
        previous-N             the ``name`` it replaces

``name`` is missing only between two renames, and then ``complete`` and ``previous-N`` both exist: :func:`recover` puts one of
them back. Two processes that build the same path at once each finish; the last one to finish wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

try:
    import fcntl
except (
    ImportError
):  # not on Windows: a workspace there counts as abandoned, and Windows refuses to delete a file in use
    fcntl = None  # type: ignore[assignment]

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # whatever the path, these are about writing
_WORKSPACE = re.compile(r"\.(?P<name>.+)\.saving-[a-z0-9_]{8}")
_LOCKLESS_GRACE_S = 60.0  # a writer needs milliseconds between making its workspace and locking it


class SaveError(OSError):
    """Something could not be saved because the file system refused: a full disk, a quota, a size limit, no permission.

    ``errno`` is the system's reason (``EIO`` where a library hid it), ``filename`` the path, ``free_bytes`` what was free on its
    file system at that moment. The text is meant for the user as it stands.
    """

    def __init__(self, what: str, path: str | os.PathLike[str], number: int) -> None:
        self.free_bytes = _free_bytes(Path(path))
        super().__init__(number, os.strerror(number), str(path))
        free = f"{self.free_bytes:,} bytes free there" if self.free_bytes >= 0 else "free space unknown"
        self._text = (
            f"could not save {what} to {path}: {os.strerror(number)} ({free}). What was saved before is untouched."
        )

    def __str__(self) -> str:
        return self._text


def cache_dir() -> Path:
    """Where fetched and converted files live: ``$FASTPREF_CACHE``, else ``$XDG_CACHE_HOME/fastpref``, else ``~/.cache/fastpref``.

    The directory is not created. Raises :class:`~fastpref.errors.UserError` where none of the three is known.
    """
    own = os.environ.get("FASTPREF_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # the XDG specification: a relative value is to be ignored
        return Path(shared, "fastpref")
    try:
        return Path.home() / ".cache" / "fastpref"
    except RuntimeError:
        raise UserError("no home directory to keep the cache in; set FASTPREF_CACHE to a directory") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: str | os.PathLike[str], data: bytes | str, *, what: str | None = None) -> None:
    """Write a whole file so that ``path`` is never half of it; text is encoded as UTF-8.

    Missing parent directories are made; a symbolic link is followed. On return the content has reached the disk.

    Args:
        path: the file.
        data: all of its content.
        what: what an error message calls it; default: the file's name.

    Raises:
        SaveError: the file system refused; ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    content = data.encode() if isinstance(data, str) else data
    with workspace(target, what=what) as scratch:
        building = scratch / "building"
        building.write_bytes(content)
        publish(building, target)


def publish(source: Path, target: Path) -> None:
    """Flush the file ``source`` to the disk and rename it to ``target``, on the same file system, replacing what is there."""
    _flush(source)
    os.replace(source, target)
    _flush(target.parent)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, what: str | None = None) -> Iterator[Path]:
    """A context manager that yields an empty directory to fill, which becomes ``path`` if the block succeeds.

    If the block raises, ``path`` is as it was and the files of the block are gone; if the process is killed, :func:`recover` sees
    to both. An existing directory at ``path`` is replaced as a whole.

    Args:
        path: the directory to make or replace.
        what: what an error message calls it; default: its name.

    Raises:
        SaveError: the file system refused, also where ``safetensors`` or ``torch.save`` in the block ran into it.
        NotADirectoryError: ``path`` is a file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a directory or nothing, found a file", str(target))
    with workspace(target, what=what) as scratch:
        building, complete = scratch / "building", scratch / "complete"
        building.mkdir()
        yield building
        for folder, _, files in os.walk(building):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        building.rename(complete)
        _flush(scratch)
        _swap_in(complete, target)


@contextlib.contextmanager
def workspace(path: str | os.PathLike[str], *, what: str | None = None) -> Iterator[Path]:
    """A context manager that yields a scratch directory on the file system of ``path``, for building ``path``.

    It is removed at the end in any case, and by the next :func:`recover` of the parent if the process is killed. Disk errors in the
    block become :class:`SaveError`.
    """
    target = Path(path)
    with saving(what or target.name, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target.parent)
        scratch, lock = _claim_workspace(target)
    try:
        with saving(what or target.name, target):
            yield scratch
    finally:
        try:
            _settle(scratch, target)
        finally:
            os.close(lock)


def recover(parent: str | os.PathLike[str]) -> None:
    """Undo or finish what killed processes left unfinished in the directory ``parent``; what live ones are doing is left alone.

    Call it before reading anything that :func:`atomic_directory` wrote. Never raises on account of the file system: a leftover that
    cannot be removed stays.
    """
    parent = Path(parent)
    try:
        scratches = [
            (entry, match["name"]) for entry in parent.iterdir() if (match := _WORKSPACE.fullmatch(entry.name))
        ]
    except OSError:
        return
    for scratch, name in scratches:
        with contextlib.suppress(OSError):
            try:
                lock = os.open(scratch / "lock", os.O_RDWR)
            except FileNotFoundError:
                if time.time() - scratch.stat().st_mtime > _LOCKLESS_GRACE_S:
                    shutil.rmtree(scratch, ignore_errors=True)
                continue
            try:
                if _lock(lock, wait=False):
                    _settle(scratch, parent / name)
            finally:
                os.close(lock)


@contextlib.contextmanager
def saving(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a disk error raised in the block into a :class:`SaveError` that names ``what`` and ``path``; other errors pass.

    Known are the ``OSError`` of a full disk, a quota, a size limit, a read-only file system or a missing permission under ``path``'s
    parent, and the errors in which safetensors, ``torch.save`` and ``torch.distributed.checkpoint`` hide one.
    """
    try:
        yield
    except SaveError:
        raise
    except BaseException as error:  # torch's CheckpointException is not an Exception
        number = _disk_error(error, Path(path).parent)
        if number is None:
            raise
        raise SaveError(what, path, number) from error


def _claim_workspace(target: Path) -> tuple[Path, int]:
    """A new workspace beside ``target`` and the descriptor that holds its lock."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.saving-", dir=target.parent))
        lock = os.open(scratch / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        _lock(lock, wait=True)  # where locks are not supported, a workspace never counts as abandoned: go on without
        # A recovering process may have found the lock free in the moment before it was taken here; then it removed the workspace.
        if (scratch / "lock").exists():
            return scratch, lock
        os.close(lock)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Whether the lock was taken; it is held until the descriptor is closed or the process ends, however it ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _swap_in(complete: Path, target: Path) -> None:
    """Rename the directory ``complete`` to ``target``, moving aside what is there as often as another process puts it back."""
    for attempt in itertools.count():
        try:
            complete.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):
            target.rename(complete.with_name(f"previous-{attempt}"))
    _flush(target.parent)


def _settle(scratch: Path, target: Path) -> None:
    """Leave a complete ``target`` if this workspace holds one and none is in place; then remove the workspace."""
    complete = scratch / "complete"
    for candidate in (complete, *sorted(scratch.glob("previous-*"), reverse=True)):
        if candidate.is_dir() and not target.exists():
            candidate.rename(target)
            _flush(target.parent)
    for leftover in (
        list(scratch.iterdir()) if scratch.exists() else []
    ):  # the lock last: without it, what is left would look like a workspace being made
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover.name != "lock":
            leftover.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until the file or directory has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot flush a directory
            raise
    finally:
        os.close(descriptor)


def _free_bytes(path: Path) -> int:
    """What an unprivileged process may still write on the file system of ``path`` or of its nearest existing parent; -1: unknown."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return -1


def _disk_error(error: BaseException | None, parent: Path) -> int | None:
    """The errno of the disk error that ``error`` is or hides, None if it is something else."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        error = queue.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        number = _own_disk_error(error, parent)
        if number is not None:
            return number
        failures = getattr(error, "failures", None)  # torch.distributed.checkpoint: {rank: (exception, traceback)}
        if isinstance(failures, dict):
            queue += [failure[0] for failure in failures.values()]
        queue += [error.__cause__, error.__context__]
    return None


def _own_disk_error(error: BaseException, parent: Path) -> int | None:
    if isinstance(error, OSError):
        if error.errno in _REFUSED:
            return error.errno
        if error.errno in (errno.EACCES, errno.EPERM) and isinstance(error.filename, str | os.PathLike):
            named, home = Path(error.filename).absolute(), parent.absolute()
            if named.is_relative_to(home) or home.is_relative_to(
                named
            ):  # not a file that the block was reading elsewhere
                return error.errno
        return None
    safetensors = sys.modules.get("safetensors")  # if it was never imported, this is not its error
    if safetensors is not None and isinstance(error, safetensors.SafetensorError):
        code = re.search(r"os error (\d+)", str(error))
        return int(code[1]) if code and int(code[1]) in _REFUSED else None
    # torch's archive writer reports a short write as a position that is not what it expected, without the system's reason.
    if isinstance(error, RuntimeError) and "inline_container" in str(error) and "PytorchStreamReader" not in str(error):
        return errno.EIO
    return None
