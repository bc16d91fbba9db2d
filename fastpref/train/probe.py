"""What a model's architecture can do, found out by running it on a dozen tokens instead of trusting a list of names.

Three questions, in float32: do the head and its options give the model's own logits; is training mode deterministic; do
packed sequences stay apart. The first two are conditions for training at all, the third chooses the layout of batches.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .batches import Batch, Layout, collate
from .model import PreferenceModel
from .tokenization import TokenizedPairs

# Relative to the largest value. A wrong head or dropout differs by far more than the first; these two refuse a model,
# so it is generous.
_HEAD_TOLERANCE = 1e-3
# Float32 rounding through any depth of layers stays below this. Where it does not, batches are padded: slower, never
# wrong. A hybrid of attention and a state-space layer leaks as little as 6e-4.
_LAYOUT_TOLERANCE = 2e-5


def probe(policy: PreferenceModel) -> Layout:
    """The layout that this model supports: packed unless it mixes packed sequences.

    Raises:
        UserError: the model gives NaN, computes its logits in a way that fastpref does not know, or its dropout cannot
            be switched off.
    """
    was_training = policy.training
    try:
        with torch.no_grad():
            _check_head(policy)
            _check_training_mode(policy)
            return Layout(_keeps_packed_apart(policy), policy.head[0].shape[1])
    finally:
        policy.train(was_training)


def _check_head(policy: PreferenceModel) -> None:
    policy.eval()
    ids = torch.from_numpy(_token_ids(policy, 8)).long().to(policy.device)[None]
    expected = policy.causal_lm(input_ids=ids, use_cache=False).logits[0].float()
    if not expected.isfinite().all():
        raise UserError("the model's logits are not finite: its weights hold NaN or infinity, or overflow")
    weight, bias = policy.head
    hidden = policy.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    logits = torch.nn.functional.linear(hidden, weight, bias) * policy.head_options.logit_scale
    if (cap := policy.head_options.softcap) is not None:
        logits = cap * torch.tanh(logits / cap)
    if not _same(logits, expected, _HEAD_TOLERANCE):
        difference = float((logits - expected).abs().max())
        raise UserError(
            f"{type(policy.causal_lm).__name__}: this architecture computes its logits from the hidden states in a way "
            f"that fastpref does not know (found a difference of {difference:.3g} with {policy.head_options})"
        )


def _check_training_mode(policy: PreferenceModel) -> None:
    batch = _pair(policy, packed=False)
    quiet = policy.eval().hidden_rows(batch)
    if not _same(policy.train().hidden_rows(batch), quiet, _HEAD_TOLERANCE):
        raise UserError(
            f"{type(policy.causal_lm).__name__}: training mode adds noise that could not be switched off; "
            "set the dropout rates in the model's config.json to 0"
        )


def _keeps_packed_apart(policy: PreferenceModel) -> bool:
    policy.eval()
    try:
        packed = policy.hidden_rows(_pair(policy, packed=True))
    except (TypeError, ValueError):  # for instance: takes no position ids
        return False
    return _same(packed, policy.hidden_rows(_pair(policy, packed=False)), _LAYOUT_TOLERANCE)


def _pair(policy: PreferenceModel, *, packed: bool) -> Batch:
    """Two pairs; packed, their four sequences make rows of 8, 4 + 4 and 4 + padding positions."""
    offsets = np.cumsum([0, 3, 6, 2, 3, 2, 2])
    data = TokenizedPairs(_token_ids(policy, int(offsets[-1])), offsets, ["probe", "probe"])
    return collate(data, [0, 1], Layout(packed, hidden_size=4)).to(policy.device)


def _token_ids(policy: PreferenceModel, count: int) -> np.ndarray:
    return (np.arange(1, count + 1) * 7 % policy.head[0].shape[0]).astype(np.int32)


def _same(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    scale = float(expected.float().abs().max())
    return bool((found.float() - expected.float()).abs().max() <= tolerance * max(scale, 1e-6))
