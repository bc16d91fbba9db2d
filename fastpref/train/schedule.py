"""The learning rate as a function of the step alone, so that there is nothing to save."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, schedule: str, warmup: float, total: int) -> float:
    """The rate of a step, counted from 0.

    Rises linearly to ``peak`` over the warm-up (its first step is not 0: it would be wasted), then decays to 0 after
    step ``total - 1``.

    Args:
        step: ``0 <= step < total``.
        peak: the highest rate.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``.
        warmup: below 1 a fraction of ``total``, from 1 on a number of steps.
        total: steps of the whole run.
    """
    rising = math.ceil(warmup * total) if warmup < 1 else min(int(warmup), total)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(total - rising, 1)
    return peak * {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[schedule]
