"""DPO from given 16-bit logits as phases of the roofline model: what each way reads and writes per logit. Peaks are above the given logits."""

from __future__ import annotations

from collections.abc import Callable

from roofline_model import Step, streams
from roofline_ours import GRADIENT_PASSES, STATS_PASSES, Head

ITEM = 2
"""Bytes of a logit."""


def _models(head: Head) -> int:
    return 1 if head.precomputed else 2


def _inputs(head: Head) -> int:
    return _models(head) * ITEM * head.logits


def ours(head: Head) -> Step:
    """Statistics of policy and reference, the gradient in place: the least that a loss can do whose coefficients need all rows."""
    stats = streams("row statistics", head.logits, [STATS_PASSES * ITEM] * _models(head), "row_stats, bfloat16, plain")
    gradient = streams("row gradient, in place", head.logits, [GRADIENT_PASSES * ITEM], "row_grad, bfloat16, plain")
    return Step((*stats, *gradient), 64 * head.rows, _inputs(head))


def ours_fresh(head: Head) -> Step:
    """The same with a gradient buffer of its own."""
    step = ours(head)
    return Step(step.phases, step.peak_bytes + ITEM * head.logits, step.inputs_bytes)


def naive(head: Head) -> Step:
    """``log_softmax`` and ``gather`` in 16 bits; TRL's ``selective_log_softmax`` does the same row by row."""
    passes = [2 + 2] * _models(head) + [2, 2 + 2 + 2]
    return Step(tuple(streams("log_softmax", head.logits, passes)), 3 * ITEM * head.logits, _inputs(head))


def naive_float32(head: Head) -> Step:
    """With ``logits.float()``."""
    passes = [2 + 4, 4 + 4] * _models(head) + [4, 4 + 4 + 4, 4 + 2]
    return Step(tuple(streams("cast, log_softmax", head.logits, passes)), 3 * 4 * head.logits, _inputs(head))


def compiled(head: Head) -> Step:
    """torch.compile of the float32 form: one pass over each operand forward, one backward, the gradient in a buffer of its own."""
    passes = [2] * _models(head) + [2 + 2]
    return Step(tuple(streams("softmax", head.logits, passes)), ITEM * head.logits, _inputs(head))


FORMS: dict[str, Callable[[Head], Step]] = {
    "fastpref in place": ours,
    "fastpref": ours_fresh,
    "naive bf16, TRL": naive,
    "naive fp32": naive_float32,
    "torch.compile": compiled,
}
