"""The row primitives as calls of ``fastpref._C``: tensors become addresses, strides and numbers, the same for the CPU's kernels and the GPU's."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .base import Direction, KlState, LogitTransform, RowState
from .native import address


class NativeRows:
    """The four primitives; a backend says where and with which function they run (:meth:`_call`).

    Attributes:
        _native: ``fastpref._C``.
        dtypes: its number of each dtype that it takes.
    """

    def __init__(self, native: ModuleType) -> None:
        self._native = native
        self.dtypes = {torch.float32: native.FLOAT32, torch.bfloat16: native.BFLOAT16, torch.float16: native.FLOAT16}

    def _call(self, primitive: str, logits: Tensor, arguments: dict[str, Any]) -> None:
        """Run a primitive on the device of ``logits``; ``arguments`` are all but those that say where."""
        raise NotImplementedError

    def _common(self, logits: Tensor, targets: Tensor, col0: int, transform: LogitTransform) -> dict[str, Any]:
        """The arguments that every primitive takes."""
        return {
            "dtype": self.dtypes[logits.dtype],
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
        }

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """See the protocol."""
        self._fold(logits, targets, state, col0, transform, {})

    def _fold(
        self,
        logits: Tensor,
        targets: Tensor,
        state: RowState,
        col0: int,
        transform: LogitTransform,
        more: dict[str, Any],
    ) -> None:
        """``row_stats``; ``more`` are arguments of the function that the protocol does not know."""
        arguments = self._common(logits, targets, col0, transform) | more
        arguments |= {
            "m": state.m.data_ptr(),
            "s": state.s.data_ptr(),
            "zt": state.zt.data_ptr(),
            "s2": address(state.s2),
            "sd": address(state.sd),
            "total": address(state.total),
            "top": address(state.top),
            "argmax": address(state.argmax),
        }
        self._call("row_stats", logits, arguments)

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
    ) -> None:
        """See the protocol; ``gain``, one fp32 element, is a factor on both coefficients."""
        self._differentiate(logits, targets, (lse, onehot_coef, softmax_coef), out, col0, transform, gain, {})

    def _differentiate(
        self, logits: Tensor, targets: Tensor, per_row: tuple[Tensor, Tensor, Tensor], out: Tensor, col0: int,
        transform: LogitTransform, gain: Tensor | None, more: dict[str, Any],
    ) -> None:  # fmt: skip
        """``row_grad``; ``more`` as in :meth:`_fold`."""
        # Coefficients are often expanded scalars or slices; these copies are [R].
        lse, onehot_coef, softmax_coef = (values.contiguous() for values in per_row)
        arguments = self._common(logits, targets, col0, transform) | more
        arguments |= {
            "lse": lse.data_ptr(),
            "onehot_coef": onehot_coef.data_ptr(),
            "softmax_coef": softmax_coef.data_ptr(),
            "gain": address(gain),
            "out": out.data_ptr(),
            "out_stride": out.stride(0),
        }
        self._call("row_grad", logits, arguments)

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
        arguments = self._common(logits, targets, col0, transform)
        arguments |= {
            "ref_logits": ref_logits.data_ptr(),
            "ref_logits_stride": ref_logits.stride(0),
            "m": state.policy.m.data_ptr(),
            "s": state.policy.s.data_ptr(),
            "zt": state.policy.zt.data_ptr(),
            "ref_m": state.reference.m.data_ptr(),
            "ref_s": state.reference.s.data_ptr(),
            "ref_zt": state.reference.zt.data_ptr(),
            "cross": state.cross.data_ptr(),
            "forward": direction == "forward",
        }
        self._call("row_kl_stats", logits, arguments)

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
        arguments = self._common(logits, targets, col0, transform)
        arguments |= {name: values.data_ptr() for name, values in kept.items()}
        arguments |= {
            "ref_logits": ref_logits.data_ptr(),
            "ref_logits_stride": ref_logits.stride(0),
            "out": out.data_ptr(),
            "out_stride": out.stride(0),
            "forward": direction == "forward",
        }
        self._call("row_kl_grad", logits, arguments)
