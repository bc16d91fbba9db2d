"""Compiling the cases: a stand-in for the GPU driver names the target, and launches are turned into ``warmup`` calls.

So what is compiled is exactly what would have been launched: tiling, and triton's own specialisation on alignment and on values of 1.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import triton
from triton.runtime import JITFunction

from ...emulation.stand_in_driver import standing_in
from . import resources
from .cases import CASES
from .report import Resources, Table


def configuration(constants: dict[str, Any]) -> str:
    """The compile-time choices of a launch: constants in capitals, warps and stages in small letters."""
    chosen = {k: v for k, v in constants.items() if k.isupper() or k in ("num_warps", "num_stages")}
    return " ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in chosen.items())


def compile_case(index: int, target: str) -> Resources:
    """The resources of the kernel that ``CASES[index]`` is about."""
    case, found = CASES[index], {}

    def launch(kernel: JITFunction, args: tuple, grid: object, kwargs: dict[str, Any]) -> Any:
        compiled = kernel.warmup(*args, grid=grid, **kwargs)
        found[kernel.__name__.lstrip("_")] = configuration(kwargs), compiled
        return compiled

    with standing_in(target, launch):
        case.launch()
    if case.kernel not in found:
        raise ValueError(f"case {case.name!r} must launch {case.kernel}, found {', '.join(found) or 'no launch'}")
    chosen, compiled = found[case.kernel]
    return {"configuration": chosen, **resources.read(compiled, target)}


def compile_all(indices: list[int], targets: list[str], jobs: int) -> Table:
    """The table of these cases, in new processes and with an empty cache: compiled whatever was compiled before."""
    table: Table = {"triton": triton.__version__, "kernels": {CASES[i].name: {} for i in indices}}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            made = {(i, target): pool.submit(compile_case, i, target) for i in indices for target in targets}
            for (i, target), resources_of in made.items():
                table["kernels"][CASES[i].name][target] = resources_of.result()
    return table
