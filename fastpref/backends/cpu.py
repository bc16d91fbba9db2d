"""The native CPU kernels (``fastpref._C``): each logit is read once for the statistics, read and written once for the gradient.

Contract: see :class:`fastpref.backends.base.Backend`. fp32, bf16 and fp16 on the CPU, any row stride and alignment, as many threads as
torch uses. Results have the same bits whatever the number of threads. The instruction set is the widest that was compiled and that
this CPU has; ``FASTPREF_CPU_ISA`` (baseline, avx2 or avx512) names another.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import torch  # before fastpref._C, so that both use the OpenMP runtime that torch brings
from torch import Tensor

from .base import LogitTransform, RowState

ABI_VERSION = 1
"""Version of the functions of ``fastpref._C`` that this file was written for."""

BUILD_RECORD = Path(__file__).resolve().parent.parent / "_build_info.json"
"""Where ``setup.py`` says why there is no native module."""

_REBUILD = "rebuild: pip install -e . (or reinstall fastpref)"


def _why_not_built() -> str:
    try:
        reason = json.loads(BUILD_RECORD.read_text())["reason"]
    except (OSError, ValueError, KeyError):
        reason = None
    return reason or "nothing is recorded about its build"


def load_native() -> ModuleType:
    """``fastpref._C``, checked to fit this file and set to ``FASTPREF_CPU_ISA``; ``ImportError`` with the reason otherwise."""
    try:
        native = importlib.import_module("fastpref._C")
    except ModuleNotFoundError:
        raise ImportError(f"fastpref._C is not built ({_why_not_built()}); {_REBUILD}") from None
    except ImportError as error:
        raise ImportError(f"fastpref._C cannot be loaded ({error}); {_REBUILD}") from error
    if (found := getattr(native, "ABI_VERSION", None)) != ABI_VERSION:
        raise ImportError(f"fastpref._C has ABI version {found}, expected {ABI_VERSION}; {_REBUILD}")
    if isa := os.environ.get("FASTPREF_CPU_ISA"):
        try:
            native.set_isa(isa)
        except ValueError as error:
            raise ImportError(f"FASTPREF_CPU_ISA={isa!r}: {error}") from None
    return native


class CpuBackend:
    """The row primitives in C++ (``csrc/cpu``)."""

    name = "cpu"

    def __init__(self) -> None:
        self._native = native = load_native()
        self._dtypes = {torch.float32: native.FLOAT32, torch.bfloat16: native.BFLOAT16, torch.float16: native.FLOAT16}

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

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """See the protocol."""
        self._native.row_stats(
            dtype=self._dtypes[logits.dtype],
            logits=logits.data_ptr(),
            logits_stride=logits.stride(0),
            rows=logits.shape[0],
            cols=logits.shape[1],
            col0=col0,
            targets=targets.data_ptr(),
            m=state.m.data_ptr(),
            s=state.s.data_ptr(),
            zt=state.zt.data_ptr(),
            logit_scale=transform.logit_scale,
            softcap=transform.softcap,
            temperature=transform.temperature,
            threads=torch.get_num_threads(),
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
            dtype=self._dtypes[logits.dtype],
            logits=logits.data_ptr(),
            logits_stride=logits.stride(0),
            rows=logits.shape[0],
            cols=logits.shape[1],
            col0=col0,
            targets=targets.data_ptr(),
            lse=lse.data_ptr(),
            onehot_coef=onehot_coef.data_ptr(),
            softmax_coef=softmax_coef.data_ptr(),
            out=out.data_ptr(),
            out_stride=out.stride(0),
            logit_scale=transform.logit_scale,
            softcap=transform.softcap,
            temperature=transform.temperature,
            threads=torch.get_num_threads(),
        )
