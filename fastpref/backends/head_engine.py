"""What runs a linear head over the whole vocabulary in one call, beside a backend's row primitives: logits never leave it.

:class:`fastpref.backends.cpu_head.CpuHead`, :class:`fastpref.backends.triton_head.TritonHead` and
:class:`fastpref.backends.cuda_head.CudaHead` are such engines. :mod:`fastpref.linear_head` asks the backend for one and runs chunks of logits by GEMM calls where there is none, or where it does not take the operands.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..engine_costs import EngineCosts
from .base import LogitTransform, RowState
from .cpu_head import HeadTiling


class HeadEngine(Protocol):
    """The contract. Callers guarantee validated operands on one device that the backend takes.

    ``hidden [T, H]`` and ``weight [V, H]`` have contiguous last dimensions and dtypes for which :meth:`why_not` gives ``None``; ``bias [V]`` or
    ``None``. An engine sums in float32 and rounds what it returns once.
    """

    def why_not(self, hidden: torch.dtype, weight: torch.dtype) -> str | None:
        """``None`` if operands of these dtypes are taken, else the reason."""
        ...

    def costs(self, hidden: torch.dtype, weight: torch.dtype) -> EngineCosts:
        """What operands of these dtypes take."""
        ...

    def kept_bytes(
        self, hidden: torch.dtype, weight: torch.dtype, transform: LogitTransform, rows: int, vocab: int
    ) -> int:
        """Bytes of what is kept of the logits of some rows."""
        ...

    def unseen_flops(self, shape: tuple[int, int, int], again: int, products: int, left_out: int) -> int:
        """FLOPs of :meth:`gradients` that are not matrix products of torch's.

        Args:
            shape: ``(T, V, H)``.
            again: rows whose logits were made again.
            products: gradients that were wanted, of hidden states and weight.
            left_out: what :meth:`gradients` returned.
        """
        ...

    def statistics(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        state: RowState,
        transform: LogitTransform,
        *,
        kept: Tensor | None = None,
        kept_rows: int = 0,
    ) -> None:
        """Fold all V columns into ``state`` of the T rows, fresh; ``kept`` gets what is kept of the first ``kept_rows`` rows' logits."""
        ...

    def gradients(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        lse: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        transform: LogitTransform,
        tiling: HeadTiling,
        *,
        dx: Tensor | None,
        dw: Tensor | None,
        db: Tensor | None,
        add_to_dw: bool = False,
        kept: Tensor | None = None,
        kept_rows: int = 0,
        logps: Tensor | None = None,
        gradient_filter: float = 0.0,
    ) -> int:
        """The gradients of all V columns, as ``row_grad`` defines them for each logit.

        ``dx [T, H]`` is overwritten, ``dw [V, H]`` overwritten or added to, ``db [V]`` float32 added to; each ``None`` if not needed. Returns how many
        blocks of logits were left out by the filter.
        """
        ...
