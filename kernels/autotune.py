"""Opt-in autotuning: the fastest of a handful of candidates on the GPU at hand, remembered on disk.

Off unless ``FASTPREF_AUTOTUNE=1``: the rules of ``tiling`` need no measurement, and a different tiling sums in a different order, so the last
bits of a result may differ between machines that measured differently. What is tuned is never a function of the number of rows:
a policy and a reference with the same numbers keep agreeing exactly.

Key       what is tuned with the bucket of its shape and dtype, the device's name, triton's version
File      ``autotune.json`` in ``$FASTPREF_CACHE``, else in ``$XDG_CACHE_HOME/fastpref``, else in ``~/.cache/fastpref``; written to the side and
          renamed, so that it is whole at any moment. One that is not what this module wrote counts as empty, with a warning; one that
          cannot be written costs the next process a measurement, with a warning
Races     processes that tune the same thing at once take what reached the disk first. What several of them write in the same instant for
          different keys may be lost but for the last, and is measured again by the next process
Capture   nothing is measured while a CUDA graph is being captured: the default is taken, and not remembered
"""

import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import triton

T = TypeVar("T")

_VERSION = 1
_lock = threading.RLock()
_known: dict[tuple[Path | None, str], str] = {}


def enabled() -> bool:
    """Whether ``FASTPREF_AUTOTUNE`` is set to 1."""
    return os.environ.get("FASTPREF_AUTOTUNE", "") == "1"


def cache_file() -> Path | None:
    """Where choices are remembered; ``None`` where there is no home directory either."""
    if own := os.environ.get("FASTPREF_CACHE"):
        return Path(own).expanduser().absolute() / "autotune.json"
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared, "fastpref", "autotune.json")
    try:
        return Path.home() / ".cache" / "fastpref" / "autotune.json"
    except RuntimeError:
        return None


def milliseconds(run: Callable[[], None]) -> float:
    """The median time of a launch on the current device, with a cold L2 cache."""
    return triton.testing.do_bench(run, warmup=10, rep=40, return_mode="median")


def choose(
    what: str,
    candidates: Mapping[str, T],
    default: str,
    run: Callable[[T], None],
    *,
    timer: Callable[[Callable[[], None]], float] = milliseconds,
    device: Callable[[], str] = torch.cuda.get_device_name,
) -> T:
    """The fastest candidate for ``what``, measured once per device.

    Args:
        what: is tuned, with its shape's bucket and its dtype.
        candidates: by the name that is remembered. One that cannot be launched is passed over.
        default: the name of the one to take where nothing can be measured.
        run: launches with a candidate, on scratch of its own.
        timer: milliseconds of a launch.
        device: the name of the device.
    """
    if len(candidates) == 1:
        return candidates[default]
    file, key = cache_file(), f"{what}; {device()}; triton {triton.__version__}"
    with _lock:
        name = _known.get((file, key)) or _load(file).get(key)
        if name not in candidates:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                return candidates[default]
            name = _fastest(candidates, run, timer)
            if name is None:
                return candidates[default]
            name = _remember(file, key, name, candidates)
        _known[file, key] = name
        return candidates[name]


def _fastest(
    candidates: Mapping[str, T], run: Callable[[T], None], timer: Callable[[Callable[[], None]], float]
) -> str | None:
    """The name of the fastest that can be launched, the first among equals; ``None`` if none can."""
    times: dict[str, float] = {}
    for name, candidate in candidates.items():
        try:
            times[name] = timer(lambda candidate=candidate: run(candidate))  # type: ignore[misc]
        except triton.TritonError:  # out of resources
            continue
    return min(times, key=times.__getitem__, default=None)


def _load(file: Path | None) -> dict[str, str]:
    """The choices in the file; empty where there is none, or where it is not one of ours."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] != _VERSION:
            return {}
        choices = found["choices"]
        if not all(isinstance(text, str) for pair in choices.items() for text in pair):
            raise ValueError("a choice is not a string")
        return choices
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"ignoring the autotuning cache {file}: {error}", stacklevel=2)
        return {}


def _remember(file: Path | None, key: str, name: str, candidates: Mapping[str, T]) -> str:
    """Add a choice to the file, unless another process was first with one of the candidates; returns the choice that stands."""
    if file is None:
        return name
    choices = _load(file)
    if choices.get(key) in candidates:
        return choices[key]
    choices[key] = name
    try:
        _replace(file, json.dumps({"version": _VERSION, "choices": dict(sorted(choices.items()))}, indent=1))
    except OSError as error:
        warnings.warn(f"cannot remember what was tuned in {file}: {error}", stacklevel=2)
    return name


def _replace(file: Path, text: str) -> None:
    """Write a whole file to the side, wait for the disk, and rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, file)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
