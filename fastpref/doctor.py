"""``fastpref doctor``: versions, which backends are active, and the exact reason why each other one is not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

PACKAGES = ("torch", "numpy", "triton", "transformers", "safetensors", "pyarrow", "tyro", "matplotlib", "gguf")


def version(package: str) -> str:
    """The installed version of a distribution, or ``not installed``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def backend_lines() -> list[str]:
    """One line a backend: active, or why not; then what ``auto`` takes."""
    import torch

    from . import backends

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = []
    for name, reason in backends.available().items():
        if reason is None:
            backend = backends.load(name)
            assert not isinstance(backend, str)  # available() has just loaded it
            where = [d for d in ("cpu", "cuda") if backend.why_not(torch.device(d), torch.float32) is None]
            if device.type in where:
                state = f"active ({backend.describe()})"
            else:
                state = f"not active: {backend.why_not(device, torch.float32)} ({backend.describe()})"
        else:
            state = f"not active: {reason}"
        lines.append(f"  {name:<8}{state}")
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        try:
            logits, head = (backends.select(None, device, dtype, given_logits=given).name for given in (True, False))
            chosen = (
                f"takes {logits}" if logits == head else f"takes {logits} for given logits, {head} for a linear head"
            )
        except ValueError as error:
            chosen = f"fails: {error}"
        lines.append(f"  auto on {device.type}, {str(dtype).removeprefix('torch.')}: {chosen}")
    return lines


def report() -> str:
    """The whole report."""
    import torch

    from . import __version__

    override = os.environ.get("FASTPREF_BACKEND")
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    lines = [
        f"fastpref {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"  installed at {os.path.dirname(os.path.abspath(__file__))}",
        "",
        "packages",
        *(f"  {name:<13}{version(name)}" for name in PACKAGES),
        "",
        "devices",
        f"  cpu: {os.cpu_count()} processors, torch uses {torch.get_num_threads()} threads",
        *(f"  gpu: {name}" for name in gpus),
        *([] if gpus else ["  gpu: none (torch.cuda.is_available() is False)"]),
        "",
        "backends" + (f" (FASTPREF_BACKEND={override})" if override else ""),
        *backend_lines(),
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print the report; exit status 0."""
    if argv:
        print(f"fastpref doctor: takes no arguments, found {' '.join(argv)}", file=sys.stderr)
        return 2
    print(report())
    return 0
