"""The row primitives in CUDA C++ (``csrc/cuda/row_*.cuh``): where they run, and the workspace of those that split rows over blocks.

One launch per primitive, with few rows one more that clears counters, and four to seven for the statistics of a divergence. There is no host
synchronisation, and what is allocated belongs to the current stream.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .base import LogitTransform, RowState
from .native import address
from .native_rows import NativeRows


@functools.cache
def _multiprocessors_of(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


class CudaRows(NativeRows):
    """The primitives of the ``cuda`` backend.

    Attributes:
        multiprocessors: said of every device in place of what it has; for tests. ``None`` outside of them.
    """

    def __init__(self, native: ModuleType, emulated: bool) -> None:
        super().__init__(native)
        self.multiprocessors: int | None = 0 if emulated else None
        self._on_host = emulated

    def where(self, tensor: Tensor) -> dict[str, int]:
        """``device``, ``stream`` and ``multiprocessors`` of a launch on the device of ``tensor``."""
        if self._on_host:
            return {"device": 0, "stream": 0, "multiprocessors": self.multiprocessors or 0}
        device = tensor.get_device()
        count = _multiprocessors_of(device) if self.multiprocessors is None else self.multiprocessors
        return {
            "device": device,
            "stream": torch.cuda.current_stream(device).cuda_stream,
            "multiprocessors": count,
        }

    def _call(self, primitive: str, logits: Tensor, arguments: dict[str, Any]) -> None:
        where = self.where(logits)
        workspace = self._workspace(primitive, logits, arguments, where["multiprocessors"])
        if workspace is not None:
            arguments["workspace"] = workspace.data_ptr()
        getattr(self._native, f"cuda_{primitive}")(**arguments, **where)

    def _bias(self, bias: Tensor | None) -> dict[str, Any]:
        return {} if bias is None else {"bias": address(bias), "bias_dtype": self.dtypes[bias.dtype]}

    def row_stats(
        self,
        logits: Tensor,
        targets: Tensor,
        state: RowState,
        *,
        col0: int,
        transform: LogitTransform,
        bias: Tensor | None = None,
    ) -> None:
        """See the protocol; ``bias [C]``, contiguous and of any of the three dtypes, is added to the logits in fp32."""
        self._fold(logits, targets, state, col0, transform, self._bias(bias))

    def row_grad(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        """See the protocol. ``gain``, one fp32 element, is a factor on both coefficients that only the device knows; ``bias`` is that of
        ``row_stats``; ``out`` may be 16-bit where the logits are float32."""
        more = {"out_dtype": self.dtypes[out.dtype]} | self._bias(bias)
        self._differentiate(logits, targets, (lse, onehot_coef, softmax_coef), out, col0, transform, gain, more)

    def _workspace(
        self, primitive: str, logits: Tensor, arguments: dict[str, Any], multiprocessors: int
    ) -> Tensor | None:
        """Scratch for the primitives that take one; used by this stream only, so it may be freed as soon as they are launched."""
        sizes = {name: arguments[name] for name in ("dtype", "rows", "cols")} | {"multiprocessors": multiprocessors}
        if primitive == "row_stats":
            more = any(arguments[name] for name in ("s2", "sd", "total", "top"))
            size = self._native.cuda_row_stats_workspace(**sizes, more=more)
        elif primitive == "row_kl_stats":
            size = self._native.cuda_row_kl_stats_workspace(**sizes)
        else:
            return None
        return torch.empty(size, dtype=torch.uint8, device=logits.device)
