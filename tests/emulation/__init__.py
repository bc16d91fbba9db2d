"""GPU kernels on the CPU: Triton's interpreter made right for bfloat16, and every memory access of a launch checked and counted.

::

    emulation.require_triton()                  # at the top of a test module: repairs the interpreter or skips with the reason
    with emulation.watch() as launches:         # out of bounds, races and hazards raise emulation.MemoryFault
        kernel[grid](x, out, n)
    launches[0].bytes_loaded("x_ptr")           # what it moved

The repair replaces private names of one triton version; see ``triton_interpreter``.
"""

import pytest

from .memory import Launch, MemoryFault, watch

__all__ = ["Launch", "MemoryFault", "require_triton", "watch"]


def require_triton() -> None:
    """Repair the interpreter for the rest of the process, or skip the calling test module and say why."""
    from . import triton_interpreter

    if (reason := triton_interpreter.repair()) is not None:
        pytest.skip(reason, allow_module_level=True)
