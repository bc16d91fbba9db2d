"""Scalar functions of the objective heads in float32, accurate at any argument and without libdevice (which the interpreter lacks).

``log1p`` and ``expm1`` take a short Taylor series near 0, where ``log(1 + x)`` and ``exp(x) - 1`` would cancel; at the switch both forms
are within a few units of the last place.
"""

import triton
import triton.language as tl


@triton.jit
def log1p(x):
    """``log(1 + x)``."""
    near = x * (1.0 - x * (0.5 - x * (0.33333334 - x * (0.25 - x * (0.2 - x * (0.16666667 - x * 0.14285715))))))
    return tl.where(tl.abs(x) < 0.0625, near, tl.log(1.0 + x))


@triton.jit
def expm1(x):
    """``exp(x) - 1``."""
    near = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.008333334 + x * 0.0013888889)))))
    return tl.where(tl.abs(x) < 0.125, near, tl.exp(x) - 1.0)


@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))


@triton.jit
def sigmoid(x):
    """``1 / (1 + e^-x)``; the exponent is never positive."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e / (1.0 + e), 1.0 / (1.0 + e))


@triton.jit
def log_sigmoid(x):
    """``log sigmoid(x) = min(x, 0) - log(1 + e^-|x|)``."""
    return tl.minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))
