"""Every function of the CUDA library on random problems under the sanitizers of the host's compiler, in the emulator (``cuda/sanitized.cpp``)."""

from __future__ import annotations

import re

import pytest

from .cuda.building import EMULATOR, ROOT, SANITIZERS, emulated_program, run_program, why_not_sanitized

CASES = re.findall(
    r'^    \{"([^"]+)", ', (EMULATOR / "sanitized.cpp").read_text().split("kCases[] = {")[1], re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SANITIZERS)
@pytest.mark.parametrize("case", CASES)
def test_under_a_sanitizer(kind, case) -> None:
    """Threads and blocks in their order, then in two others."""
    if reason := why_not_sanitized(kind):
        pytest.skip(reason)
    program = emulated_program("sanitized.cpp", kind)
    for seed in ("0", "1", "2") if kind != "thread" else ("1",):
        done = run_program(program, case, seed)
        assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr[:6000]}"
        assert done.stdout == f"{case}: right\n"
        assert done.stderr == ""


def test_every_function_of_the_interface_has_a_case() -> None:
    program = (EMULATOR / "sanitized.cpp").read_text()
    functions = []
    for name in ("rows", "preference", "linear"):
        header = (ROOT / f"csrc/cuda/{name}.h").read_text()
        functions += re.findall(r"\(\*(\w+)\)\(", header.split("Api {")[1])
    assert len(functions) >= 11
    assert [name for name in functions if not re.search(rf"(?:->|\.){name}\(", program)] == []
