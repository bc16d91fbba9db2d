"""Triton kernels on CUDA and ROCm GPUs, and under ``TRITON_INTERPRET=1`` on the CPU, for tests.

Contract: see :class:`fastpref.backends.base.Backend`. This module only adapts it to ``fastpref.kernels``, where the kernels, their
traffic and their limits are described. It is imported lazily, and so is triton: loading the backend raises ``ImportError`` without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Direction, KlState, LogitTransform, RowState

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _options(transform: LogitTransform) -> dict[str, Any]:
    """The kernels' form of the transform: ``z = cap * tanh(scale / cap * x)``, or ``scale * x`` without a cap, times ``row_scale``."""
    cap = None if transform.softcap is None else transform.softcap / transform.temperature
    return {"scale": transform.scale, "cap": cap, "row_scale": transform.inv_temperature}


class TritonBackend:
    """One launch per primitive, no host synchronisation, no atomics. Statistics of fewer rows than multiprocessors take two, those of a
    divergence three or five.

    Attributes:
        stage: the whole of a loss from given logits.
    """

    name = "triton"

    def __init__(self) -> None:
        try:
            import triton
        except ImportError as error:
            raise ImportError(
                f"triton cannot be imported ({error}); it comes with PyTorch's CUDA and ROCm builds, or with fastpref[triton]"
            ) from error
        from fastpref.kernels import row_grad, row_kl, row_stats, tiling

        from .triton_head import TritonHead
        from .triton_stage import TritonStage

        self.head = TritonHead()
        self.stage = TritonStage(_options)
        self._multiprocessors = tiling.multiprocessors
        self._row_stats = row_stats.row_stats
        self._row_grad = row_grad.row_grad
        self._row_cross = row_kl.row_cross
        self._row_kl_grad = row_kl.row_kl_grad
        self._interpreted = tiling.INTERPRETED
        self._version = triton.__version__

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """float32, bfloat16 and float16 on CUDA and ROCm devices; the CPU only in the interpreter."""
        if device.type == "cpu":
            if not self._interpreted:
                return "Triton needs a GPU; TRITON_INTERPRET=1 runs its kernels on the CPU for tests"
        elif device.type != "cuda":
            return f"the Triton kernels run on CUDA and ROCm GPUs, found device {device.type!r}"
        if dtype not in _DTYPES:
            return f"the Triton kernels take float32, bfloat16 and float16 logits, found {dtype}"
        return None

    def describe(self) -> str:
        """See the protocol."""
        return f"Triton {self._version}" + (", interpreted on the CPU" if self._interpreted else "")

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """See the protocol."""
        count = self._multiprocessors(logits.device)
        self._row_stats(logits, targets, **vars(state), col0=col0, multiprocessors=count, **_options(transform))

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
    ) -> None:
        """See the protocol."""
        self._row_grad(logits, targets, lse, onehot_coef, softmax_coef, out, col0=col0, **_options(transform))

    def row_kl_stats(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        state: KlState,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """See the protocol."""
        a, b = state.pair(direction)
        before = (a.m.clone(), a.s.clone(), b.m.clone())
        self.row_stats(logits, targets, state.policy, col0=col0, transform=transform)
        self.row_stats(ref_logits, targets, state.reference, col0=col0, transform=transform)
        x, y = (ref_logits, logits) if direction == "forward" else (logits, ref_logits)
        self._row_cross(x, y, targets, before, (a.m, b.m), state.cross, **_options(transform))

    def row_kl_grad(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        ref_lse: Tensor,
        kl: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        kl_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """See the protocol."""
        self._row_kl_grad(
            logits,
            ref_logits,
            targets,
            (lse, ref_lse, kl),
            (onehot_coef, softmax_coef, kl_coef),
            out,
            forward=direction == "forward",
            col0=col0,
            **_options(transform),
        )
