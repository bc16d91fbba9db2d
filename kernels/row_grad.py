"""Row gradient: turn a chunk of logits into the gradient of any loss of token log-probabilities, in place or out of place.

    out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * exp(z[r, j] - lse[r])) * dz/dx

Inputs    ``logits [R, C]`` float32, bfloat16 or float16, contiguous rows at any row stride: vocabulary columns ``[col0, col0 + C)``
          ``targets [R]`` int64, negative on ignored rows; ``lse``, ``onehot``, ``softmax``, optional ``row_scale`` ``[R]`` float32;
          optional ``gain`` of one float32 element, a factor on both coefficients that is known on the device only
Output    ``out [R, C]`` in the dtype of ``logits``, contiguous rows at any row stride; may be ``logits`` itself
Bytes     reads every logit once and writes every gradient once, + 20 bytes per row and block of columns. Rows that are ignored, or
          whose two coefficients are both 0, are written as zeros and not read
Values    ``z`` is the transformed logit (see ``logit_transform``), float32 until the one rounding at the store. The target's entry
          keeps its digits where ``p`` is near 1: ``onehot - softmax * p`` is taken as ``(onehot - softmax) - softmax * expm1(z - lse)``
Limits    ``R < 2^31``, ``C < 2^27`` (65535 blocks on grid axis y). 16-byte loads and stores need pointers, row strides and a ``C`` that are
          multiples of 16 elements; anything else is correct and slower

There is nothing to carry along a row, so the grid is rows x blocks of columns with no loop: few rows still fill a GPU. Rows are on
axis x, which alone may exceed 65535. Every element is loaded by one load of the one program that stores it and nothing is read a
second time (no scalar load of the target's logit, say, which another warp might have overwritten): that is what makes in place safe.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logit_transform import LOG2E, tanh_and_slope, transform_arguments
from .tiling import tiling

_LOADS = 2  # 64 registers on sm_90 with bfloat16, twice that with 4


@triton.jit
def expm1_near_zero(d):
    """``exp(d) - 1`` for ``|d| <= 1/2``, relative error 3e-9 before rounding (minimax)."""
    q = 0.04166536 + d * (0.008333579 + d * (0.0013996176 + d * 0.0001984981))
    return d + d * d * (0.5 + d * (0.16666664 + d * q))


@triton.jit(do_not_specialize=["col0"])
def _row_grad(
    x_ptr,
    x_stride,
    targets_ptr,
    lse_ptr,
    onehot_ptr,
    softmax_ptr,
    gain_ptr,
    out_ptr,
    out_stride,
    columns,
    col0,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    j = first + tl.arange(0, BLOCK)
    inside = j < columns
    out_ptr += row * out_stride
    target = tl.load(targets_ptr + row)
    onehot = tl.load(onehot_ptr + row)
    softmax = tl.load(softmax_ptr + row)
    if gain_ptr is not None:
        gain = tl.load(gain_ptr)
        onehot *= gain
        softmax *= gain
    if (target < 0) | ((onehot == 0.0) & (softmax == 0.0)):
        tl.store(out_ptr + j, tl.zeros((BLOCK,), out_ptr.dtype.element_ty), mask=inside)
        return

    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row)
        scale *= own
        cap *= own
    x = tl.load(x_ptr + row * x_stride + j, mask=inside, other=0.0).to(tl.float32)
    lse = tl.load(lse_ptr + row)
    if TRANSFORM == "softcap":
        tanh, slope = tanh_and_slope(x * inner)
        d = tanh * cap - lse
    elif TRANSFORM == "scale":
        d = x * scale - lse
    else:
        d = x - lse
    if TRANSFORM != "identity":  # the constant factor of dz/dx goes to the row's coefficients
        onehot *= scale
        softmax *= scale
    grad = -softmax * tl.exp2(d * LOG2E)
    column = target - col0
    if (column >= first) & (column < first + BLOCK):
        close = (onehot - softmax) - softmax * expm1_near_zero(d)
        grad = tl.where(j == column.to(tl.int32), tl.where(tl.abs(d) < 0.5, close, onehot + grad), grad)
    if TRANSFORM == "softcap":
        grad *= slope
    tl.store(out_ptr + j, grad.to(out_ptr.dtype.element_ty), mask=inside)


def row_grad(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    onehot: Tensor,
    softmax: Tensor,
    out: Tensor,
    *,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
    gain: Tensor | None = None,
) -> None:
    """Launch over all of ``logits [R, C]``; writes ``out [R, C]``, which may be ``logits``. See the top of this file."""
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    lanes, num_warps = tiling(columns, logits.element_size(), _LOADS)
    block = _LOADS * lanes
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_grad[(rows, triton.cdiv(columns, block))](
            logits,
            logits.stride(0),
            targets,
            lse,
            onehot,
            softmax,
            gain,
            out,
            out.stride(0),
            columns,
            col0,
            **transform_arguments(scale, cap, row_scale),
            BLOCK=block,
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
