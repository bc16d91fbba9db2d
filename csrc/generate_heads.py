"""Writes the objective heads that are derived from the definitions in fastpref/objectives: ``python csrc/generate_heads.py`` (``--check``
only compares, status 1 where they are out of date)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fastpref.objectives import OBJECTIVES
from fastpref.objectives.device import DeviceForm, device_forms
from fastpref.objectives.emit import cpp, triton

ROOT = Path(__file__).parent.parent
CPP = ROOT / "csrc" / "core" / "objective_heads.h"
TRITON = ROOT / "kernels" / "objective_heads.py"


def texts(forms: Sequence[DeviceForm]) -> dict[Path, str]:
    """Each file and what it should hold."""
    return {CPP: cpp(forms), TRITON: triton(forms)}


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = []
    for path, text in texts(device_forms(OBJECTIVES)[0]).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(text, encoding="utf-8")
    print("\n".join(f"{'out of date' if check else 'written'}: {name}" for name in stale) or "up to date")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
