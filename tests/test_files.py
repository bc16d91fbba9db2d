"""Atomic files and directories: complete old or complete new content after failures, kills and full disks."""

import errno
import hashlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastpref._files import (
    SaveError,
    atomic_directory,
    cache_dir,
    publish,
    recover,
    saving,
    sha256,
    workspace,
    write_atomic,
)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; its exit status, or minus the signal that ended it. 3: it raised."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def abandoned(parent: Path, name: str) -> Path:
    """The workspace that a killed writer of ``parent / name`` leaves."""

    def work() -> None:
        with workspace(parent / name):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    (scratch,) = parent.glob(f".{name}.saving-*")
    return scratch


def fill(directory: Path, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "a").write_text(text)
    (directory / "sub").mkdir()
    (directory / "sub" / "b").write_text(text)


def content(directory: Path) -> tuple[str, str]:
    return (directory / "a").read_text(), (directory / "sub" / "b").read_text()


class TestSha256:
    def test_matches_hashlib(self, tmp_path: Path) -> None:
        data = random.Random(0).randbytes((1 << 20) + 17)
        (tmp_path / "f").write_bytes(data)
        assert sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


class TestCacheDir:
    def test_precedence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("FASTPREF_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cache_dir() == tmp_path / "home" / ".cache" / "fastpref"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert cache_dir() == tmp_path / "home" / ".cache" / "fastpref"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_dir() == tmp_path / "xdg" / "fastpref"
        monkeypatch.setenv("FASTPREF_CACHE", "~/own")
        assert cache_dir() == tmp_path / "home" / "own"


class TestWriteAtomic:
    def test_writes_text_and_bytes_and_makes_parents(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "deep" / "f"
        write_atomic(path, "é\n")
        assert path.read_bytes() == "é\n".encode()
        write_atomic(path, b"\x00\xff")
        assert path.read_bytes() == b"\x00\xff"
        assert names(path.parent) == ["f"]

    def test_mode_follows_the_umask(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("")
        write_atomic(tmp_path / "f", "")
        assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_follows_a_symbolic_link(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "real" / "f", "old")
        (tmp_path / "link").symlink_to(tmp_path / "real" / "f")
        write_atomic(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "f").read_text() == "new"

    def test_size_limit_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "state.json"
        write_atomic(path, "old")

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            with pytest.raises(SaveError) as caught:
                write_atomic(path, "x" * 5000, what="the run's state")
            assert caught.value.errno == errno.EFBIG
            assert caught.value.filename == str(path)
            assert caught.value.free_bytes > 0
            text = str(caught.value)
            assert text.startswith(f"could not save the run's state to {path}: File too large (")
            assert text.endswith("bytes free there). What was saved before is untouched.")

        assert in_child(work) == 0
        assert path.read_text() == "old"
        assert names(tmp_path) == ["state.json"]


class TestPublish:
    def test_replaces(self, tmp_path: Path) -> None:
        (tmp_path / "new").write_text("new")
        (tmp_path / "f").write_text("old")
        publish(tmp_path / "new", tmp_path / "f")
        assert names(tmp_path) == ["f"]
        assert (tmp_path / "f").read_text() == "new"


class TestAtomicDirectory:
    def test_makes_and_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "runs" / "checkpoint"
        for text in ("one", "two"):
            with atomic_directory(path) as building:
                assert names(building) == []
                fill(building, text)
                assert path.exists() == (text == "two")
            assert content(path) == (text, text)
            assert names(path) == ["a", "sub"]
            assert names(path.parent) == ["checkpoint"]

    @pytest.mark.parametrize("exists", [False, True])
    def test_failure_changes_nothing(self, tmp_path: Path, exists: bool) -> None:
        path = tmp_path / "checkpoint"
        if exists:
            fill(path, "old")

        def interrupted() -> None:
            with atomic_directory(path) as building:
                fill(building, "new")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == (["checkpoint"] if exists else [])
        if exists:
            assert content(path) == ("old", "old")

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("mine")
        with (
            pytest.raises(NotADirectoryError, match="expected a directory or nothing"),
            atomic_directory(tmp_path / "f"),
        ):
            pytest.fail("entered")
        assert (tmp_path / "f").read_text() == "mine"

    def test_the_last_of_two_writers_wins(self, tmp_path: Path) -> None:
        path = tmp_path / "checkpoint"
        with atomic_directory(path) as first:
            fill(first, "first")
            with atomic_directory(path) as second:
                fill(second, "second")
            assert content(path) == ("second", "second")
        assert content(path) == ("first", "first")
        assert names(tmp_path) == ["checkpoint"]

    def test_killed_at_any_moment(self, tmp_path: Path) -> None:
        """A writer that replaces a directory for ever is killed again and again; a complete directory is always found."""
        path = tmp_path / "checkpoint"
        fill(path, "start")

        def work() -> None:
            for turn in range(10**9):
                with atomic_directory(path) as building:
                    fill(building, str(turn))

        chance = random.Random(0)
        for _ in range(25):
            child = os.fork()
            if child == 0:
                try:
                    work()
                finally:
                    os._exit(3)
            time.sleep(0.005 + 0.02 * chance.random())
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            recover(tmp_path)
            a, b = content(path)
            assert a == b
            # A kill between making a workspace and locking it leaves an empty one, which only age proves abandoned.
            assert all(not names(leftover) for leftover in tmp_path.glob(".*"))

    @pytest.mark.parametrize("writer", ["file", "safetensors", "torch.save", "dcp"])
    def test_size_limit(self, tmp_path: Path, writer: str) -> None:
        safetensors_torch = pytest.importorskip("safetensors.torch")
        import torch.distributed.checkpoint as dcp

        path = tmp_path / "checkpoint"
        fill(path, "old")
        data = {"weight": torch.zeros(50_000)}

        def save() -> None:
            with atomic_directory(path) as directory:
                write(directory)

        def write(directory: Path) -> None:
            if writer == "file":
                (directory / "f").write_bytes(bytes(200_000))
            elif writer == "safetensors":
                safetensors_torch.save_file(data, directory / "f")
            elif writer == "torch.save":
                torch.save(data, directory / "f")
            else:
                dcp.save(data, checkpoint_id=directory / "f", no_dist=True)

        # Within the process: forked children cannot use torch's thread pools. Only the soft limit, so that it can be lifted.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(SaveError, match=r"^could not save checkpoint to .*untouched\.$") as caught:
                save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno == (errno.EFBIG if writer in ("file", "safetensors") else errno.EIO)
        assert content(path) == ("old", "old")
        assert names(tmp_path) == ["checkpoint"]


class TestRecover:
    def test_removes_the_unfinished(self, tmp_path: Path) -> None:
        fill(abandoned(tmp_path, "checkpoint") / "building", "half")
        recover(tmp_path)
        assert names(tmp_path) == []

    def test_a_new_writer_recovers_by_itself(self, tmp_path: Path) -> None:
        fill(abandoned(tmp_path, "checkpoint") / "building", "half")
        write_atomic(tmp_path / "other", "")
        assert names(tmp_path) == ["other"]

    def test_between_the_two_renames_the_new_one_is_put_in_place(self, tmp_path: Path) -> None:
        scratch = abandoned(tmp_path, "checkpoint")
        fill(scratch / "previous-0", "old")
        fill(scratch / "complete", "new")
        recover(tmp_path)
        assert content(tmp_path / "checkpoint") == ("new", "new")
        assert names(tmp_path) == ["checkpoint"]

    def test_the_old_one_is_put_back_if_there_is_no_new_one(self, tmp_path: Path) -> None:
        fill(abandoned(tmp_path, "checkpoint") / "previous-0", "old")
        recover(tmp_path)
        assert content(tmp_path / "checkpoint") == ("old", "old")

    def test_what_is_in_place_stays(self, tmp_path: Path) -> None:
        fill(tmp_path / "checkpoint", "in place")
        fill(abandoned(tmp_path, "checkpoint") / "complete", "new")
        recover(tmp_path)
        assert content(tmp_path / "checkpoint") == ("in place", "in place")
        assert names(tmp_path) == ["checkpoint"]

    def test_leaves_a_live_writer_alone(self, tmp_path: Path) -> None:
        with atomic_directory(tmp_path / "checkpoint") as building:
            recover(tmp_path)
            assert in_child(lambda: recover(tmp_path)) == 0
            fill(building, "new")
        assert content(tmp_path / "checkpoint") == ("new", "new")

    def test_a_workspace_without_a_lock_must_be_old(self, tmp_path: Path) -> None:
        scratch = tmp_path / ".checkpoint.saving-abcdefgh"
        scratch.mkdir()
        recover(tmp_path)
        assert scratch.exists()
        os.utime(scratch, (0, 0))
        recover(tmp_path)
        assert not scratch.exists()

    def test_touches_nothing_else(self, tmp_path: Path) -> None:
        for name in (".saving-abcdefgh", ".x.saving-short", "x.saving-abcdefgh", ".bashrc"):
            (tmp_path / name).mkdir()
            os.utime(tmp_path / name, (0, 0))
        before = names(tmp_path)
        recover(tmp_path)
        recover(tmp_path / "missing")
        assert names(tmp_path) == before


class TestSaving:
    def test_other_errors_pass(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), saving("x", tmp_path / "x"):
            (tmp_path / "missing").read_text()
        with pytest.raises(PermissionError), saving("x", tmp_path / "x"):
            raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")
        with pytest.raises(ValueError), saving("x", tmp_path / "x"):
            raise ValueError

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
    def test_disk_errors_are_named(self, tmp_path: Path, number: int) -> None:
        with pytest.raises(SaveError) as caught, saving("the log", tmp_path / "log"):
            raise OSError(number, os.strerror(number))
        assert caught.value.errno == number
        assert f"could not save the log to {tmp_path / 'log'}: {os.strerror(number)}" in str(caught.value)

    def test_a_missing_permission_where_it_writes(self, tmp_path: Path) -> None:
        with pytest.raises(SaveError, match="Permission denied"), saving("x", tmp_path / "x"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))

    def test_keeps_the_inner_message(self, tmp_path: Path) -> None:
        with (
            pytest.raises(SaveError, match="could not save inner"),
            saving("outer", tmp_path),
            saving("inner", tmp_path),
        ):
            raise OSError(errno.ENOSPC, "")
