"""The whole of a loss from given logits in two native calls (``csrc/cpu/preference.cpp`` and the row gradient): see :mod:`fastpref.backends.stage`.

Beside the sweeps over the logits a loss is a few numbers per token, which cost PyTorch a few dozen operators of which each finds its code and its
data gone from the caches; here they are one loop.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._checks import nan_logp, target_outside
from .base import LogitTransform
from .native_rows import NativeRows
from .native_stage import NativeStage

_TARGET, _SIDES = 1, {2: "logits", 3: "reference"}
"""What the native function finds wrong with a row."""


class CpuStage(NativeStage):
    """The calls; results have the same bits whatever the number of threads.

    Args:
        native: ``fastpref._C``.
        rows: the row primitives.
    """

    refuses_rows = True

    def __init__(self, native: ModuleType, rows: NativeRows) -> None:
        super().__init__(native, native.heads(), rows)

    def _run(self, logits: Tensor, targets: Tensor, arguments: dict[str, Any]) -> None:
        what, row = self._native.preference_forward(**arguments, threads=torch.get_num_threads())
        if what == _TARGET:
            raise target_outside(targets, row, logits.shape[1], arguments["ignored"])
        if what:
            raise nan_logp(_SIDES[what], row, int(targets[row]))

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
        """See the protocol."""
        # An ignored row's id need not be negative here: its coefficient is 0.
        self._rows.row_grad(logits, targets, lse, coef, coef, out, col0=0, transform=transform, gain=upstream)
