"""The distance to the target along a descent, at steps that are even on a logarithmic axis."""

from __future__ import annotations

import numpy as np

from .descent import Descent
from .instance import Instance
from .targets import Array


def geometric(steps: int, points: int = 60) -> list[int]:
    """At most ``points`` different steps from 1 to ``steps``, about evenly spaced in the logarithm."""
    return np.unique(np.geomspace(1, steps, points).astype(int)).tolist()


def history(instance: Instance, end: Descent) -> tuple[Array, Array]:
    """Steps ``[m]`` and total variations to the target ``[m]`` of a descent's snapshots, up to where it ended."""
    steps = [s for s in end.snapshots if s <= end.steps]
    tv = [float(instance.distance(end.snapshots[s])) for s in steps]
    return np.asarray(steps, dtype=np.float64), np.asarray(tv)
