"""The native CPU kernels (``fastpref._C``): each logit is read once for the statistics, read and written once for the gradient.

Contract: see :class:`fastpref.backends.base.Backend`. fp32, bf16 and fp16 on the CPU, any row stride and alignment, as many threads as
torch uses. Results have the same bits whatever the number of threads. The instruction set is the widest that was compiled and that
this CPU has; ``FASTPREF_CPU_ISA`` (baseline, avx2, avx512 or amx) names another. ``amx`` is avx512 with tile kernels for linear heads
(:mod:`fastpref.backends.cpu_head`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cpu_head import CpuHead
from .cpu_stage import CpuStage
from .native import load_native
from .native_rows import NativeRows


class CpuBackend(NativeRows):
    """The row primitives in C++ (``csrc/cpu``).

    Attributes:
        head: a linear head over the whole vocabulary in one call.
        stage: the whole of a loss from given logits.
    """

    name = "cpu"

    def __init__(self) -> None:
        super().__init__(load_native())
        self.head = CpuHead(self._native, self.dtypes)
        self.stage = CpuStage(self._native, self)

    def describe(self) -> str:
        """One line for ``fastpref doctor``."""
        native = self._native
        others = ", ".join(isa for isa in native.compiled_isas() if isa != native.active_isa())
        threads = "OpenMP" if native.OPENMP else "one thread: built without OpenMP"
        return f"{native.active_isa()}, also compiled: {others or 'nothing else'}; {threads}; {native.COMPILER}"

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """float32, bfloat16 and float16 on the CPU."""
        if device.type != "cpu":
            return f"the native kernels run on the CPU, found device {device.type!r}"
        if dtype not in self.dtypes:
            return f"the native kernels take float32, bfloat16 and float16 logits, found {dtype}"
        return None

    def _call(self, primitive: str, logits: Tensor, arguments: dict[str, Any]) -> None:
        getattr(self._native, primitive)(**arguments, threads=torch.get_num_threads())
