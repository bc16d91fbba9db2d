"""Row divergence: what KL between a policy's and a reference's logits needs of both at once, and the gradient of a loss that uses it.

``row_cross`` goes over a chunk of two distributions after ``row_stats`` went over each, and adds to each row
``sum exp(a - m_a) ((a - m_a) - (b - m_b))``, where ``a`` is the ``z`` of the one that measures. ``row_kl_grad`` is ``row_grad`` with a third term:

    out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * p + kl_coef[r] * d) * dz/dx
    p = exp(z - lse), q = exp(ref_z - ref_lse), d = p - q (forward) or p * (log p - log q - kl) (reverse, 0 where p is 0)

Inputs    both chunks ``[R, C]`` of one dtype, float32, bfloat16 or float16, contiguous rows at any row stride; ``targets [R]`` int64, negative on
          ignored rows, which are not read; everything per row ``[R]`` float32
In place  ``cross [R]``; it is moved from the reference values ``before`` the chunk to those after it. ``out`` may be ``logits``, not ``ref_logits``
Bytes     ``row_cross`` reads every logit of both once, ``row_kl_grad`` too, and writes every gradient once; rows without a third term do
          not read the reference's, silent rows read nothing
Values    an entry with ``a = -inf`` adds 0, one with ``b = -inf`` alone ``+inf``, which stays. Equal rows give exactly 0 in both kernels: no
          multiplication is fused with the difference that follows it
Limits    as in ``row_stats`` and ``row_grad``
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logit_transform import LOG2E, tanh_and_slope, transform_arguments, transformed
from .row_grad import expm1_near_zero
from .tiling import tiling

_LOADS = 2  # of each of the two


@triton.jit
def finite_reference(m):
    """A reference value, or 0 where nothing finite was seen."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def _row_cross(
    a_ptr,
    a_stride,
    b_ptr,
    b_stride,
    targets_ptr,
    m_a_before_ptr,
    s_a_before_ptr,
    m_b_before_ptr,
    m_a_ptr,
    m_b_ptr,
    cross_ptr,
    columns,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    LOADS: tl.constexpr,
    LANES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(targets_ptr + row) < 0:
        return
    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row)
        scale *= own
        cap *= own
    a_ptr += row * a_stride
    b_ptr += row * b_stride
    m_a = finite_reference(tl.load(m_a_ptr + row))
    m_b = finite_reference(tl.load(m_b_ptr + row))
    step = (tl.arange(0, LOADS) * LANES)[:, None] + tl.arange(0, LANES)[None, :]
    total = tl.zeros((LANES,), tl.float32)
    for start in range(0, columns, LOADS * LANES):
        inside = start + step < columns
        a = tl.load(a_ptr + start + step, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + start + step, mask=inside, other=0.0).to(tl.float32)
        z_a = transformed(a, scale, inner, cap, TRANSFORM)
        z_b = transformed(b, scale, inner, cap, TRANSFORM)
        d_a = z_a - m_a
        term = tl.exp2(d_a * LOG2E) * (d_a - (z_b - m_b))
        term = tl.where(z_b == float("-inf"), float("inf"), term)
        term = tl.where(z_a == float("-inf"), 0.0, term)
        total += tl.sum(tl.where(inside, term, 0.0), axis=0)

    cross = tl.load(cross_ptr + row)
    m_a_before = tl.load(m_a_before_ptr + row)
    s_a_before = tl.load(s_a_before_ptr + row)
    moved = (m_a_before - m_a) - (tl.load(m_b_before_ptr + row) - m_b)
    carried = tl.exp2((m_a_before - m_a) * LOG2E) * (cross + s_a_before * moved)
    carried = tl.where((s_a_before == 0.0) | (cross == float("inf")), cross, carried)
    tl.store(cross_ptr + row, carried + tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["col0"])
def _row_kl_grad(
    x_ptr,
    x_stride,
    y_ptr,
    y_stride,
    targets_ptr,
    lse_ptr,
    ref_lse_ptr,
    kl_ptr,
    onehot_ptr,
    softmax_ptr,
    third_ptr,
    out_ptr,
    out_stride,
    columns,
    col0,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    FORWARD: tl.constexpr,
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
    third = tl.load(third_ptr + row)
    if (target < 0) | ((onehot == 0.0) & (softmax == 0.0) & (third == 0.0)):
        tl.store(out_ptr + j, tl.zeros((BLOCK,), out_ptr.dtype.element_ty), mask=inside)
        return

    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row)
        scale *= own
        cap *= own
    x = tl.load(x_ptr + row * x_stride + j, mask=inside, other=0.0).to(tl.float32)
    wanted = j < tl.where(third == 0.0, 0, columns)
    y = tl.load(y_ptr + row * y_stride + j, mask=wanted, other=0.0).to(tl.float32)
    log_p = transformed(x, scale, inner, cap, TRANSFORM) - tl.load(lse_ptr + row)
    log_q = transformed(y, scale, inner, cap, TRANSFORM) - tl.load(ref_lse_ptr + row)
    p = tl.exp2(log_p * LOG2E)
    if FORWARD:
        d = p - tl.exp2(log_q * LOG2E)
    else:
        d = tl.where(p == 0.0, 0.0, p * ((log_p - log_q) - tl.load(kl_ptr + row)))
    d = tl.where(third == 0.0, 0.0, third * d)
    grad = d - softmax * p
    column = target - col0
    if (column >= first) & (column < first + BLOCK):
        close = (onehot - softmax) - softmax * expm1_near_zero(log_p) + d
        grad = tl.where(j == column.to(tl.int32), tl.where(tl.abs(log_p) < 0.5, close, onehot + grad), grad)
    if TRANSFORM == "softcap":
        _, slope = tanh_and_slope(x * inner)
        grad *= slope
    if TRANSFORM != "identity":
        grad *= scale
    tl.store(out_ptr + j, grad.to(out_ptr.dtype.element_ty), mask=inside)


def row_cross(
    a: Tensor,
    b: Tensor,
    targets: Tensor,
    before: tuple[Tensor, Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    cross: Tensor,
    *,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
) -> None:
    """Add a chunk ``a [R, C]``, ``b [R, C]`` to ``cross [R]``: ``before`` it ``m_a``, ``s_a`` and ``m_b``, ``after`` it ``m_a`` and ``m_b``."""
    rows, columns = a.shape
    if rows == 0 or columns == 0:
        return
    lanes, num_warps = tiling(columns, a.element_size(), _LOADS)
    with torch.cuda.device_of(a):  # Triton launches on the current device
        _row_cross[(rows,)](
            a,
            a.stride(0),
            b,
            b.stride(0),
            targets,
            *before,
            *after,
            cross,
            columns,
            **transform_arguments(scale, cap, row_scale),
            LOADS=_LOADS,
            LANES=lanes,
            num_warps=num_warps,
            enable_fp_fusion=False,
        )


def row_kl_grad(
    logits: Tensor,
    ref_logits: Tensor,
    targets: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    coefs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    *,
    forward: bool,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
) -> None:
    """Write ``out [R, C]``, which may be ``logits``; ``saved`` are ``lse``, ``ref_lse`` and ``kl``, ``coefs`` onehot, softmax and third."""
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    lanes, num_warps = tiling(columns, logits.element_size(), _LOADS)
    block = _LOADS * lanes
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _row_kl_grad[(rows, triton.cdiv(columns, block))](
            logits,
            logits.stride(0),
            ref_logits,
            ref_logits.stride(0),
            targets,
            *saved,
            *coefs,
            out,
            out.stride(0),
            columns,
            col0,
            **transform_arguments(scale, cap, row_scale),
            FORWARD=forward,
            BLOCK=block,
            num_warps=num_warps,
            enable_fp_fusion=False,
        )
