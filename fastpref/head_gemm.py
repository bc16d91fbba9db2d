"""The GEMM operands of the vocabulary loop, whatever the dtypes of hidden states, weight and bias: exact logits, cheap gradients.

Logits ``[rows, C]`` come out in float32 (float64 for float64 operands) and are never rounded to 16 bits: a product of two 16-bit numbers
is exact in float32, so they carry the error of a float32 sum and no other, and float16 logits do not overflow. Where the device has no
GEMM of 16-bit operands into float32 the operands are cast: the hidden states once, the weight one vocabulary chunk at a time.

Gradients run in the promotion of the two operands' dtypes: 16-bit GEMMs where both are the same 16-bit dtype (the gradient of the logits is
rounded to it), float32 where they differ.

Scratch: ``T * H`` float32 for 16-bit hidden states, ``C * H`` float32 for a 16-bit weight, and ``rows * C`` 16-bit elements where
gradients run in 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backends.base import accumulation_dtype
from .scratch import take


def gradient_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of the operands of the gradient GEMMs: float32 for bfloat16 with float16."""
    return torch.promote_types(hidden.dtype, weight.dtype)


def widens_in_gemm(hidden: Tensor, weight: Tensor) -> bool:
    """Whether one GEMM takes these 16-bit operands into float32: ``out_dtype`` of ``torch.mm``, on CUDA from torch 2.8 on."""
    same = hidden.dtype == weight.dtype and hidden.dtype.itemsize == 2
    return same and hidden.is_cuda and hasattr(torch.ops.aten.mm, "dtype_out")


class HeadGemm:
    """The operands of one pass over the vocabulary.

    Args:
        weight: ``[V, H]``.
        bias: ``[V]`` or ``None``.
        hidden: ``[T, H]``, contiguous.
        vocab_chunk: most columns of a chunk.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, hidden: Tensor, vocab_chunk: int) -> None:
        self.logit_dtype = accumulation_dtype(hidden.dtype)
        self.gradient_dtype = gradient_dtype(hidden, weight)
        self._weight, self._bias, self._hidden = weight, bias, hidden
        self._widens = widens_in_gemm(hidden, weight)
        self._wide_hidden = hidden
        if hidden.dtype != self.logit_dtype and not self._widens:
            wide = take(hidden.numel(), self.logit_dtype, hidden.device)
            self._wide_hidden = wide.view(hidden.shape).copy_(hidden)
        self._wide_weight: Tensor | None = None
        self._wide_columns: tuple[int, int] | None = None
        self._most = min(vocab_chunk, weight.shape[0]) * weight.shape[1]
        self._rounded: Tensor | None = None

    def logits(self, columns: tuple[int, int], block: slice, out: Tensor) -> Tensor:
        """``out [rows, C] = hidden[block] @ weight[columns].T + bias[columns]``."""
        first, last = columns
        if self._widens:
            torch.mm(self._hidden[block], self._weight[first:last].t(), out_dtype=self.logit_dtype, out=out)
            return out if self._bias is None else out.add_(self._bias[first:last])
        weight = self._weight_in_float(columns).t()
        if self._bias is None:
            return torch.mm(self._wide_hidden[block], weight, out=out)
        return torch.addmm(self._bias[first:last].to(self.logit_dtype), self._wide_hidden[block], weight, out=out)

    def _weight_in_float(self, columns: tuple[int, int]) -> Tensor:
        """The chunk's weight rows in the dtype of the logits; the cast is kept while the columns stay the same."""
        rows = self._weight[columns[0] : columns[1]]
        if rows.dtype == self.logit_dtype:
            return rows
        if self._wide_weight is None:
            self._wide_weight = take(self._most, self.logit_dtype, rows.device)
        wide = self._wide_weight[: rows.numel()].view(rows.shape)
        if self._wide_columns != columns:
            wide.copy_(rows)
            self._wide_columns = columns
        return wide

    def rounded(self, logits_grad: Tensor) -> Tensor:
        """The gradient of a chunk's logits as an operand of the gradient GEMMs; valid until the next call."""
        if logits_grad.dtype == self.gradient_dtype:
            return logits_grad
        if self._rounded is None or self._rounded.numel() < logits_grad.numel():
            self._rounded = take(logits_grad.numel(), self.gradient_dtype, logits_grad.device)
        return self._rounded[: logits_grad.numel()].view(logits_grad.shape).copy_(logits_grad)

    def gradient_weight(self, columns: tuple[int, int]) -> Tensor:
        """``weight[columns]`` as an operand of the gradient GEMMs."""
        rows = self._weight[columns[0] : columns[1]]
        if rows.dtype == self.gradient_dtype:
            return rows
        return self._weight_in_float(columns)

    def gradient_hidden(self, block: slice) -> Tensor:
        """``hidden[block]`` as an operand of the gradient GEMMs."""
        return (self._hidden if self._hidden.dtype == self.gradient_dtype else self._wide_hidden)[block]
