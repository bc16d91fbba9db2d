"""The whole of a loss from given logits in two launches (``csrc/cuda/preference_forward.cuh``, ``row_grad.cuh``): see :mod:`fastpref.backends.stage`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .base import LogitTransform
from .cuda_rows import CudaRows
from .native_stage import NativeStage


class CudaStage(NativeStage):
    """The launches; the heads are those that the library was compiled with.

    Args:
        native: ``fastpref._C`` with the library loaded.
        rows: the row primitives; they say where a launch goes.
    """

    def __init__(self, native: ModuleType, rows: CudaRows) -> None:
        super().__init__(native, native.cuda_heads(), rows)
        self._cuda_rows = rows

    def _run(self, logits: Tensor, targets: Tensor, arguments: dict[str, Any]) -> None:
        """One launch, and a memset of its counters before it."""
        where = tuple(self._cuda_rows.where(logits).values())  # device, stream, multiprocessors
        size = self._native.cuda_preference_workspace(arguments["logits"], arguments["sequences"], where)
        workspace = torch.empty(size, dtype=torch.uint8, device=logits.device)
        self._native.cuda_preference_forward(**arguments, where=where, workspace=workspace.data_ptr())

    def backward(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        coef: Tensor,
        upstream: Tensor,
        out: Tensor,
        transform: LogitTransform,
    ) -> None:
        """See the protocol: one launch."""
        self._cuda_rows.row_grad(logits, targets, lse, coef, coef, out, col0=0, transform=transform, gain=upstream)
