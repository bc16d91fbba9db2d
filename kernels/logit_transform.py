"""Device functions shared by the row kernels: ``z = cap * tanh(inner * x)`` or ``scale * x`` or ``x``, and the slope ``dz/dx``.

``TRANSFORM`` is a compile-time choice, so that plain logits pay for neither: ``"identity"``, ``"scale"`` or ``"softcap"``. With a
softcap ``scale = inner * cap``. Rows may have a factor of their own on ``z`` (an inverse temperature): it goes to ``scale`` and ``cap`` where
a program starts on its row, never to ``inner``. Everything is float32. There is no libdevice call: both formulas are one ``exp2`` and a
division.
"""

import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def tanh_and_slope(u):
    """``tanh(u)`` and ``1 - tanh(u)^2``, both to a few ulp at any ``u``, infinities and NaN included."""
    # With e = exp(-2|u|) <= 1 nothing overflows and 4e / (1 + e)^2 keeps the digits that 1 - tanh^2 cancels.
    e = tl.exp2(tl.abs(u) * (-2.0 * LOG2E))
    far = (1.0 - e) / (1.0 + e)
    # 1 - e cancels near 0: there an odd polynomial (minimax on |u| <= 5/8, relative error 4e-9) takes over.
    w = u * u
    near = -0.33333282 + w * (0.13331442 + w * (-0.05373972 + w * (0.02063909 - w * 0.00570499)))
    tanh = tl.where(tl.abs(u) < 0.625, u + u * w * near, tl.where(u < 0.0, -far, far))
    return tanh, 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def transformed(x, scale, inner, cap, TRANSFORM: tl.constexpr):
    """``z`` of raw logits ``x``."""
    if TRANSFORM == "softcap":
        tanh, _ = tanh_and_slope(x * inner)
        return tanh * cap
    elif TRANSFORM == "scale":
        return x * scale
    else:
        return x


def transform_arguments(
    scale: float, cap: float | None, row_scale: Tensor | None
) -> dict[str, float | str | Tensor | None]:
    """The kernels' five arguments for ``z = cap * tanh(scale / cap * x)``, or ``scale * x`` without a ``cap``, times ``row_scale [R]``."""
    if cap is not None:
        return {"scale": scale, "inner": scale / cap, "cap": cap, "row_scale_ptr": row_scale, "TRANSFORM": "softcap"}
    kind = "identity" if scale == 1.0 and row_scale is None else "scale"
    return {"scale": scale, "inner": 0.0, "cap": 0.0, "row_scale_ptr": row_scale, "TRANSFORM": kind}
