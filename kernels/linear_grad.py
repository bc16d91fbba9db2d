"""Gradient of a linear head's logits for a chunk of the vocabulary, as an operand of the GEMMs that make dX and dW of it.

    out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * exp(z[r, j] - lse[r])) * (dz/dx but for its constant factor)

The logits are made again from hidden states and weight (:func:`linear_grad`), or taken from what ``linear_stats`` kept (:func:`kept_grad`).
The caller divides a power of two out of each row's two coefficients, so that they are at most 1, and multiplies it to the ``[T, H]``
operands: the rounding to 16 bits is then relative to the row, and float16 does not underflow.

Inputs    ``hidden [T, H]``, ``weight [C, H]`` (the chunk's rows, vocabulary columns ``[col0, col0 + C)``), ``bias [C]`` or none: as in
          ``linear_stats``; or ``kept``: its values and references of these T rows over the whole vocabulary
          ``targets [T]`` int64, negative on ignored rows; ``lse``, ``onehot``, ``softmax``, optional ``row_scale`` ``[T]`` float32.
          The constant factor of dz/dx (logit scale, temperature, ``row_scale``) is the caller's, in the coefficients
          ``logps [T]`` float32, of the targets, with kept values: their entries are exact to float32 whatever the rounding of the rest
Outputs   ``out [T, C]`` float32, bfloat16 or float16, contiguous rows at any row stride
          ``db [row tiles, C]`` float32, if given: each tile's column sums of ``factor[r] * out[r, j]``, before ``out`` is rounded
Bytes     :func:`linear_grad` reads the operands like ``linear_stats`` and writes every gradient once; no logit is stored.
          :func:`kept_grad` reads every kept value of a row that is not silent once and writes every gradient once
Values    as in ``row_grad``: float32 until the one rounding at the store. Rows that are ignored or whose two coefficients are both 0 are
          silent: written as exact zeros, their hidden states and kept values not read; a tile of silent rows makes no logits
Limits    as ``linear_stats``; :func:`kept_grad` has ``C < 2^22`` (65535 tiles on grid axis y)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kept_layout import SLOT
from .linear_tiling import is_heavy, linear_tiling
from .logit_transform import LOG2E, tanh_and_slope, transform_arguments, transformed
from .row_grad import expm1_near_zero
from .tile_product import is_narrow, product_dtype, tile_of_program, tile_product

_KEPT_ROWS = 64  # with SLOT columns: four 16-byte loads per thread in flight


@triton.jit
def target_entry(d, onehot, softmax):
    """``onehot - softmax * exp(d)`` of each row's target, whose digits ``onehot - softmax`` keeps where ``d`` is near 0."""
    close = (onehot - softmax) - softmax * expm1_near_zero(d)
    return tl.where(tl.abs(d) < 0.5, close, onehot - softmax * tl.exp2(d * LOG2E))


@triton.jit
def silent_rows(targets_ptr, onehot_ptr, softmax_ptr, row, rows):
    """``(target, onehot, softmax, live)`` of these rows."""
    target = tl.load(targets_ptr + row, mask=row < rows, other=-1)
    onehot = tl.load(onehot_ptr + row, mask=row < rows, other=0.0)
    softmax = tl.load(softmax_ptr + row, mask=row < rows, other=0.0)
    return target, onehot, softmax, (target >= 0) & ((onehot != 0.0) | (softmax != 0.0))


@triton.jit
def store_gradient(grad, live, row, rows, j, inside, out_ptr, out_stride, db_ptr, factor_ptr, tile, columns):
    """One tile of gradients, and its column sums where ``db_ptr`` is given."""
    grad = tl.where(live[:, None], grad, 0.0)
    if db_ptr is not None:
        factor = tl.load(factor_ptr + row, mask=live, other=0.0)
        tl.store(db_ptr + tile.to(tl.int64) * columns + j, tl.sum(grad * factor[:, None], axis=0), mask=inside)
    places = out_ptr + row.to(tl.int64)[:, None] * out_stride + j[None, :]
    tl.store(places, grad.to(out_ptr.dtype.element_ty), mask=(row < rows)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["col0"])
def _linear_grad(
    x_ptr,
    x_stride,
    w_ptr,
    w_stride,
    bias_ptr,
    targets_ptr,
    lse_ptr,
    onehot_ptr,
    softmax_ptr,
    out_ptr,
    out_stride,
    db_ptr,
    factor_ptr,
    rows,
    columns,
    width,
    col0,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    EVEN: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    row_tile, column_tile = tile_of_program(tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS), GROUP)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    j = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = j < columns
    target, onehot, softmax, live = silent_rows(targets_ptr, onehot_ptr, softmax_ptr, row, rows)
    if tl.max(live.to(tl.int32), axis=0) == 0:
        places = out_ptr + row.to(tl.int64)[:, None] * out_stride + j[None, :]
        nothing = tl.zeros((ROWS, COLUMNS), out_ptr.dtype.element_ty)
        tl.store(places, nothing, mask=(row < rows)[:, None] & inside[None, :])
        if db_ptr is not None:
            tl.store(db_ptr + row_tile.to(tl.int64) * columns + j, tl.zeros((COLUMNS,), tl.float32), mask=inside)
        return

    if row_scale_ptr is not None:
        own = tl.load(row_scale_ptr + row, mask=live, other=1.0)[:, None]
        scale *= own
        cap *= own
    lse = tl.load(lse_ptr + row, mask=live, other=0.0)
    x = tile_product(x_ptr, x_stride, row, live, w_ptr, w_stride, j, inside, width, EVEN, DTYPE, ROWS, COLUMNS, DEPTH)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + j, mask=inside, other=0.0).to(tl.float32)[None, :]
    if TRANSFORM == "softcap":
        tanh, slope = tanh_and_slope(x * inner)
        d = tanh * cap - lse[:, None]
    else:
        d = transformed(x, scale, inner, cap, TRANSFORM) - lse[:, None]
    grad = -softmax[:, None] * tl.exp2(d * LOG2E)
    column = target - col0
    hit = j[None, :] == tl.where((column >= 0) & (column < columns), column, -1).to(tl.int32)[:, None]
    entry = target_entry(tl.sum(tl.where(hit, d, 0.0), axis=1), onehot, softmax)
    grad = tl.where(hit, entry[:, None], grad)
    if TRANSFORM == "softcap":
        grad *= slope
    store_gradient(grad, live, row, rows, j, inside, out_ptr, out_stride, db_ptr, factor_ptr, row_tile, columns)


@triton.jit(do_not_specialize=["first_slot"])
def _kept_grad(
    kept_ptr,
    kept_stride,
    reference_ptr,
    reference_stride,
    targets_ptr,
    lse_ptr,
    logps_ptr,
    onehot_ptr,
    softmax_ptr,
    out_ptr,
    out_stride,
    db_ptr,
    factor_ptr,
    rows,
    columns,
    first_slot,
    shift,
    scale,
    inner,
    cap,
    row_scale_ptr,
    TRANSFORM: tl.constexpr,
    SLOT: tl.constexpr,
    ROWS: tl.constexpr,
):
    row_tile = tl.program_id(0)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    # Programs are on the slots of the whole vocabulary; the chunk begins ``shift`` columns into its first one.
    slot = first_slot + tl.program_id(1)
    v = slot * SLOT + tl.arange(0, SLOT)
    j = tl.program_id(1) * SLOT - shift + tl.arange(0, SLOT)
    inside = (j >= 0) & (j < columns)
    target, onehot, softmax, live = silent_rows(targets_ptr, onehot_ptr, softmax_ptr, row, rows)
    lse = tl.load(lse_ptr + row, mask=live, other=0.0)
    places = kept_ptr + row.to(tl.int64)[:, None] * kept_stride + v[None, :]
    value = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
    if reference_ptr is not None:
        m = tl.load(reference_ptr + row.to(tl.int64) * reference_stride + slot, mask=live, other=0.0)
        p = value * tl.exp2((m - lse) * LOG2E)[:, None]
    else:
        if row_scale_ptr is not None:
            own = tl.load(row_scale_ptr + row, mask=live, other=1.0)[:, None]
            scale *= own
            cap *= own
        p = tl.exp2((transformed(value, scale, inner, cap, TRANSFORM) - lse[:, None]) * LOG2E)
    entry = target_entry(tl.load(logps_ptr + row, mask=live, other=0.0), onehot, softmax)
    hit = v[None, :] == tl.where(target < 0x7FFFFFFF, target, -1).to(tl.int32)[:, None]
    grad = tl.where(hit, entry[:, None], -softmax[:, None] * p)
    if TRANSFORM == "softcap":
        _, slope = tanh_and_slope(value * inner)
        grad *= slope
    store_gradient(grad, live, row, rows, j, inside, out_ptr, out_stride, db_ptr, factor_ptr, row_tile, columns)


def row_tiles(hidden: Tensor, weight: Tensor) -> int:
    """Rows of the ``db`` of :func:`linear_grad` for these operands."""
    return triton.cdiv(hidden.shape[0], linear_tiling(is_narrow(hidden, weight)).rows)


def kept_row_tiles(rows: int) -> int:
    """Rows of the ``db`` of :func:`kept_grad`."""
    return triton.cdiv(rows, _KEPT_ROWS)


def linear_grad(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    onehot: Tensor,
    softmax: Tensor,
    out: Tensor,
    *,
    db: Tensor | None = None,
    factor: Tensor | None = None,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
) -> None:
    """Launch over all of ``hidden [T, H]`` and the chunk's ``weight [C, H]``; writes ``out [T, C]``. See the top of this file."""
    (rows, width), columns = hidden.shape, weight.shape[0]
    if rows == 0:
        return
    tile = linear_tiling(is_narrow(hidden, weight), is_heavy(width, cap))
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        _linear_grad[(triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)](
            hidden,
            hidden.stride(0),
            weight,
            weight.stride(0),
            bias,
            targets,
            lse,
            onehot,
            softmax,
            out,
            out.stride(0),
            db,
            factor,
            rows,
            columns,
            width,
            col0,
            **transform_arguments(scale, cap, row_scale),
            EVEN=width % tile.depth == 0,
            DTYPE=product_dtype(hidden, weight),
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            GROUP=tile.group,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,
        )


def kept_grad(
    kept: tuple[Tensor, Tensor | None],
    targets: Tensor,
    lse: Tensor,
    logps: Tensor,
    onehot: Tensor,
    softmax: Tensor,
    out: Tensor,
    *,
    db: Tensor | None = None,
    factor: Tensor | None = None,
    col0: int = 0,
    scale: float = 1.0,
    cap: float | None = None,
    row_scale: Tensor | None = None,
) -> None:
    """Launch over ``out [T, C]`` from the views of a ``KeptLayout`` of these T rows. See the top of this file."""
    (rows, columns), (values, references) = out.shape, kept
    if rows == 0:
        return
    slots = (col0 + columns - 1) // SLOT - col0 // SLOT + 1
    with torch.cuda.device_of(out):  # Triton launches on the current device
        _kept_grad[(triton.cdiv(rows, _KEPT_ROWS), slots)](
            values,
            values.stride(0),
            references,
            0 if references is None else references.stride(0),
            targets,
            lse,
            logps,
            onehot,
            softmax,
            out,
            out.stride(0),
            db,
            factor,
            rows,
            columns,
            col0 // SLOT,
            col0 % SLOT,
            **transform_arguments(scale, cap, row_scale),
            SLOT=SLOT,
            ROWS=_KEPT_ROWS,
            num_warps=4,
            enable_fp_fusion=True,
        )
