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

from .base import Direction, KlState, LogitTransform, RowState
from .cpu_head import CpuHead
from .native import address, load_native


class CpuBackend:
    """The row primitives in C++ (``csrc/cpu``)."""

    name = "cpu"

    def __init__(self) -> None:
        self._native = native = load_native()
        self._dtypes = {torch.float32: native.FLOAT32, torch.bfloat16: native.BFLOAT16, torch.float16: native.FLOAT16}
        self.head = CpuHead(native, self._dtypes)

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
        if dtype not in self._dtypes:
            return f"the native kernels take float32, bfloat16 and float16 logits, found {dtype}"
        return None

    def _common(self, logits: Tensor, targets: Tensor, col0: int, transform: LogitTransform) -> dict[str, Any]:
        """The arguments that every primitive takes."""
        return {
            "dtype": self._dtypes[logits.dtype],
            "logits": logits.data_ptr(),
            "logits_stride": logits.stride(0),
            "rows": logits.shape[0],
            "cols": logits.shape[1],
            "col0": col0,
            "targets": targets.data_ptr(),
            "inv_temperature": address(transform.inv_temperature),
            "logit_scale": transform.logit_scale,
            "softcap": transform.softcap,
            "temperature": transform.temperature,
            "threads": torch.get_num_threads(),
        }

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """See the protocol."""
        self._native.row_stats(
            **self._common(logits, targets, col0, transform),
            m=state.m.data_ptr(),
            s=state.s.data_ptr(),
            zt=state.zt.data_ptr(),
            s2=address(state.s2),
            sd=address(state.sd),
            total=address(state.total),
            top=address(state.top),
            argmax=address(state.argmax),
        )

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
        # Coefficients are often expanded scalars or slices; these copies are [R].
        lse, onehot_coef, softmax_coef = lse.contiguous(), onehot_coef.contiguous(), softmax_coef.contiguous()
        self._native.row_grad(
            **self._common(logits, targets, col0, transform),
            lse=lse.data_ptr(),
            onehot_coef=onehot_coef.data_ptr(),
            softmax_coef=softmax_coef.data_ptr(),
            out=out.data_ptr(),
            out_stride=out.stride(0),
        )

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
        self._native.row_kl_stats(
            **self._common(logits, targets, col0, transform),
            ref_logits=ref_logits.data_ptr(),
            ref_logits_stride=ref_logits.stride(0),
            m=state.policy.m.data_ptr(),
            s=state.policy.s.data_ptr(),
            zt=state.policy.zt.data_ptr(),
            ref_m=state.reference.m.data_ptr(),
            ref_s=state.reference.s.data_ptr(),
            ref_zt=state.reference.zt.data_ptr(),
            cross=state.cross.data_ptr(),
            forward=direction == "forward",
        )

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
        per_row = {
            "lse": lse,
            "ref_lse": ref_lse,
            "kl": kl,
            "onehot_coef": onehot_coef,
            "softmax_coef": softmax_coef,
            "kl_coef": kl_coef,
        }
        kept = {name: values.contiguous() for name, values in per_row.items()}
        self._native.row_kl_grad(
            **self._common(logits, targets, col0, transform),
            **{name: values.data_ptr() for name, values in kept.items()},
            ref_logits=ref_logits.data_ptr(),
            ref_logits_stride=ref_logits.stride(0),
            out=out.data_ptr(),
            out_stride=out.stride(0),
            forward=direction == "forward",
        )
