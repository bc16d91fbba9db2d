"""bfloat16 in numpy, which has no such dtype: values are kept as uint16 bit patterns, the form Triton's interpreter uses."""

import numpy as np


def to_float32(bits: np.ndarray) -> np.ndarray:
    """The values of bfloat16 bit patterns (uint16), exactly."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def from_float32(values: np.ndarray) -> np.ndarray:
    """Bit patterns (uint16) of the bfloat16 numbers nearest to ``values``, ties to even; any NaN becomes the quiet one."""
    values = np.asarray(values, dtype=np.float32)
    bits = np.atleast_1d(values).view(np.uint32).reshape(values.shape)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
