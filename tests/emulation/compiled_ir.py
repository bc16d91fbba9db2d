"""Run what the compiler made of a kernel, on the CPU: an execution that shares no code with Triton's interpreter.

Triton compiles a launch for a GPU that is not here, through every pass on its own IR; the PyPI package ``ttsem`` executes the result
(layouts, pipelining, asynchronous copies to shared memory, barriers and tensor-core instructions are in it) on the tensors of the launch, with
numpy, and the values are the launch's::

    with executing("sm_90") as launches:
        backend.row_stats(...)          # compiled, executed, written back
    launches[0].kernel

Every launch is checked: accesses outside of a tensor's storage, races between programs, layouts that an operation cannot have, and races
between warps in shared memory raise ``AssertionError``. What is below the IR is not executed: LLVM, ptxas, the error of ``ex2.approx``.
NVIDIA targets only: ``ttsem`` does not know AMD's buffer loads.

``ttsem`` asks for a newer Python than it needs::

    pip install --no-deps --ignore-requires-python ttsem==0.1.0

It is reached through private names, like triton's driver interface, so both versions are fixed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

VERSION = "0.1.0"
TARGETS = ("sm_80", "sm_90", "sm_100")


class Launch(NamedTuple):
    """One launch that was executed."""

    kernel: str
    ir: str
    programs: int


def why_not() -> str | None:
    """Why compiled kernels cannot be executed in this process, or ``None``."""
    if importlib.util.find_spec("ttsem") is None:
        return "ttsem is not installed: pip install --no-deps --ignore-requires-python ttsem==0.1.0"
    if (found := importlib.metadata.version("ttsem")) != VERSION:
        return f"this is written for ttsem {VERSION}, found {found}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    import triton

    from . import stand_in_driver

    if triton.__version__ != stand_in_driver.VERSION:
        return f"the stand-in driver is written for triton {stand_in_driver.VERSION}, found {triton.__version__}"
    if triton.knobs.runtime.interpret:
        return "kernels are interpreted in this process: start the tests with TRITON_INTERPRET=0"
    return None


@contextlib.contextmanager
def executing(target: str) -> Iterator[list[Launch]]:
    """In the block every launch is compiled for ``target`` and executed on its tensors; yields the launches so far."""
    from ttsem import harness, mlir

    from . import stand_in_driver

    mlir.enable_generic_printing()
    gpu, launches = stand_in_driver.TARGETS[target], []

    def launch(kernel: Any, args: tuple, grid: Any, kwargs: dict[str, Any]) -> None:
        record = harness.record_launch(kernel, args, kwargs, grid, lambda *_, **__: None, "").record
        launches.append(Launch(kernel.__name__, _compiled(record, gpu), int(np.prod(record.grid))))
        _execute(record, launches[-1].ir)

    stock = harness._frontend_target
    harness._frontend_target = lambda: gpu  # else it asks torch for the device
    try:
        with stand_in_driver.standing_in(target, launch):
            yield launches
    finally:
        harness._frontend_target = stock


_made: dict[str, str] = {}


def _compiled(record: Any, gpu: Any) -> str:
    """The IR of a launch before it becomes LLVM's; compiled and checked once per specialisation and target."""
    from ttsem import harness

    special = harness._specialize(record.fn, record.args, record.kwargs, gpu)
    key = repr((record.fn.cache_key, gpu, *special))
    if key not in _made:
        ir = _lowered(record.fn, gpu, *special)
        _check(ir)
        _made[key] = ir
    return _made[key]


def _lowered(kernel: Any, gpu: Any, options: Any, signature: Any, constants: Any, attributes: Any) -> str:
    """What ``triton.compile`` does, as far as memory is allocated and barriers are set: the first half of its stage ``llir``."""
    from triton._C.libtriton import ir, nvidia, passes
    from triton.backends.nvidia.compiler import get_ptx_version_from_options
    from triton.compiler import ASTSource, make_backend

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    backend = make_backend(gpu)
    options = backend.parse_options(dict(options.__dict__, **source.parse_options()))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    tools = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(gpu, options, *tools, context)
    metadata = {"target": gpu, **options.__dict__}
    for name in ("ttir", "ttgir"):
        module = stages[name](module, metadata)

    on = gpu.arch, get_ptx_version_from_options(options, gpu.arch)
    lower = ir.pass_manager(context)
    passes.ttgpuir.add_combine_tensor_select_and_if(lower)
    passes.ttgpuir.add_allocate_warp_groups(lower, False)
    passes.convert.add_scf_to_cf(lower)
    nvidia.passes.ttgpuir.add_allocate_shared_memory_nv(lower, *on)
    nvidia.passes.ttnvgpuir.add_allocate_tensor_memory(lower)
    nvidia.passes.ttnvgpuir.add_proxy_fence_insertion(lower, gpu.arch)
    nvidia.passes.ttnvgpuir.add_tmem_barrier_insertion(lower)
    nvidia.passes.ttgpuir.add_membar(lower, *on)
    nvidia.passes.ttnvgpuir.add_tmem_wait_insertion(lower)
    lower.run(module, "fastpref")
    return str(module)


def _check(ir: str) -> None:
    from ttsem import interp2, mlir, races

    violations, gaps, _ = interp2.check_module(mlir.parse(ir), *interp2.launch_config(ir))
    assert not violations, violations
    assert not gaps, gaps
    for report in races.detect(ir):
        assert report.status == "ok", report.status
        assert not report.races, (report.function, report.pairs)


def _execute(record: Any, ir: str) -> None:
    from ttsem import harness, pidraces

    run = harness.execute(record, ir, raise_faults=True, trace_access=True)
    assert run.failure is None, run.failure
    assert not run.unsupported, run.unsupported
    assert run.memory.access_log is not None, "too large to be checked for races: use a smaller shape"
    race = pidraces.find_race(run.memory.access_log)
    assert race is None, race
    tensors = {name: value for name, value in record.bound.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        made = run.buffer(record, name)
        if made is not None:  # an argument that the compiler dropped has no buffer
            storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            storage.copy_(torch.from_numpy(np.ascontiguousarray(made).view(np.uint8)))
