"""Advantages and returns from rewards: what the policy-gradient objectives take as data. Nothing here is differentiated.

Rewards of a sequence are ``[K]``, of a token ``[T]`` in packed rows with ``cu_seqlens [K+1]``. Groups (the samples of one prompt) are any integers ``[K]``. Results
have the dtype of the rewards; sums are made in :func:`fastpref.packing.wide_dtype`. Rewards of NaN, in :func:`group_relative` and
:func:`leave_one_out`, are samples without a score: no baseline counts them and their advantage is 0, as in TRL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ._checks import check_cu_seqlens, require_floating, require_shape, require_tensor
from .errors import require_between, require_choice, require_number
from .objectives.ratios import kl_estimate
from .packing import wide_dtype

STD_FLOOR = 1e-4
"""Added to standard deviations that divide, as TRL does."""


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, cu_seqlens: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438): ``A_t = delta_t + gamma lam A_{t+1}``, ``delta_t = r_t + gamma V_{t+1} - V_t``.

    The value after a sequence's last token is 0. All sequences are scanned at once in ``log2`` of the longest length steps.

    Args:
        rewards: ``[T]``, see :func:`kl_in_reward`.
        values: ``[T]``.
        cu_seqlens: ``[K+1]``.
        gamma: discount, in [0, 1].
        lam: ``lambda``, in [0, 1].

    Returns:
        Advantages ``[T]`` (not whitened) and returns ``[T]``, which are advantages plus values.

    Example:
        >>> import torch
        >>> from fastpref.advantages import gae
        >>> gae(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3), torch.tensor([0, 3], dtype=torch.int32), gamma=1.0, lam=0.5)[0]
        tensor([0.2500, 0.5000, 1.0000])
    """
    require_between("gamma", gamma, 0.0, 1.0)
    require_between("lam", lam, 0.0, 1.0)
    total = _rows("rewards", rewards)
    require_shape("values", require_tensor("values", values), (total,))
    check_cu_seqlens(cu_seqlens, total)
    wide = wide_dtype(rewards.device)
    r, v = rewards.to(wide), values.to(wide)
    left = _rows_after(cu_seqlens, total, rewards.device)
    advantages = r + gamma * _shifted(v, 1, left) - v
    # Doubling: after the step of width w, a row holds the discounted sum of its own and the next 2w - 1 deltas of its sequence.
    width, longest = 1, int(left.max()) + 1
    while width < longest:
        advantages = advantages + (gamma * lam) ** width * _shifted(advantages, width, left)
        width *= 2
    return advantages.to(rewards.dtype), (advantages + v).to(rewards.dtype)


@torch.no_grad()
def kl_in_reward(
    scores: Tensor,
    logps: Tensor,
    ref_logps: Tensor,
    cu_seqlens: Tensor,
    kl_coef: float = 0.05,
    estimator: Literal["k1", "k3"] = "k1",
) -> Tensor:
    """PPO's token rewards ``-kl_coef k_t``, plus the sequence's score at its last token.

    Args:
        scores: ``[K]``.
        logps: ``[T]`` of the policy that sampled.
        ref_logps: ``[T]`` of the reference.
        cu_seqlens: ``[K+1]``.
        kl_coef: weight of the KL.
        estimator: ``"k1"``, ``lp - lref``, or ``"k3"``, ``e^d - d - 1`` with ``d = lref - lp``.

    Returns:
        ``[T]``.
    """
    require_number("kl_coef", kl_coef)
    require_choice("estimator", estimator, ("k1", "k3"))
    total = _rows("logps", logps)
    require_shape("ref_logps", require_tensor("ref_logps", ref_logps), (total,))
    check_cu_seqlens(cu_seqlens, total)
    require_shape("scores", require_tensor("scores", scores), (cu_seqlens.shape[0] - 1,))
    wide = wide_dtype(logps.device)
    rewards = -kl_coef * kl_estimate(estimator, ref_logps.to(wide) - logps.to(wide))
    last = cu_seqlens.to(logps.device, torch.int64)[1:] - 1
    return rewards.index_add(0, last, scores.to(wide)).to(logps.dtype)


@torch.no_grad()
def whiten(values: Tensor, active: Tensor | None = None, *, shift_mean: bool = True) -> Tensor:
    """``(x - mean) / sqrt(var + 1e-8)`` with the unbiased variance, over the active rows; the others become 0.

    Args:
        values: ``[T]`` (or any shape).
        active: bool, same shape; ``None``: all.
        shift_mean: ``False`` keeps the mean: only the scale is changed (PPO's ``whiten_rewards``).

    Raises:
        ValueError: fewer than two active values, of which there is no variance.
    """
    require_floating("values", require_tensor("values", values))
    x = values.to(wide_dtype(values.device))
    mask = torch.ones_like(x, dtype=torch.bool) if active is None else active
    require_shape("active", require_tensor("active", mask), tuple(values.shape))
    if mask.dtype != torch.bool:
        raise TypeError(f"active: expected dtype torch.bool, found {mask.dtype}")
    count = mask.sum()
    if int(count) < 2:
        raise ValueError(f"values: whitening needs at least two active values, found {int(count)}")
    x = torch.where(mask, x, torch.zeros_like(x))
    mean = x.sum() / count
    centred = torch.where(mask, x - mean, torch.zeros_like(x))
    scaled = centred * torch.rsqrt((centred * centred).sum() / (count - 1) + 1e-8)
    if not shift_mean:
        scaled = torch.where(mask, scaled + mean, scaled)
    return scaled.to(values.dtype)


@torch.no_grad()
def group_relative(
    rewards: Tensor, groups: Tensor, scale_rewards: Literal["group", "batch", "none"] = "group"
) -> Tensor:
    """GRPO's advantages ``(r - mean) / (std + 1e-4)``, the mean over the group, the unbiased standard deviation over what ``scale_rewards`` says.

    Args:
        rewards: ``[K]``.
        groups: ``[K]`` integers.
        scale_rewards: ``"group"``, ``"batch"``, or ``"none"`` for no division (Dr. GRPO). Division by the group's changes the temperature of a KL
            term to ``beta * std``.

    Returns:
        ``[K]``; 0 in groups of one.
    """
    require_choice("scale_rewards", scale_rewards, ("group", "batch", "none"))
    x, scored, index, counts = _grouped(rewards, groups)
    centred = torch.where(scored, x - (_sums(x, index, counts) / counts.clamp(min=1))[index], torch.zeros_like(x))
    if scale_rewards == "group":
        variance = _sums(centred * centred, index, counts) / (counts - 1).clamp(min=1)
        centred = centred / (variance.sqrt()[index] + STD_FLOOR)
    elif scale_rewards == "batch":
        centred = centred / (_standardised(x, scored)[1] + STD_FLOOR)
    return centred.to(rewards.dtype)


@torch.no_grad()
def leave_one_out(rewards: Tensor, groups: Tensor, normalize_advantages: bool = False) -> Tensor:
    """RLOO's advantages ``r_i - mean_{j != i} r_j`` in the group (arXiv 2402.14740).

    Args:
        rewards: ``[K]``, with the KL penalty in them.
        groups: ``[K]`` integers.
        normalize_advantages: then ``(A - mean) / (std + 1e-4)`` over the batch, as TRL's option of that name; groups of one stay at 0.

    Returns:
        ``[K]``; 0 in groups of one.
    """
    x, scored, index, counts = _grouped(rewards, groups)
    others = (counts[index] - 1).clamp(min=1)
    advantages = x - (_sums(x, index, counts)[index] - x) / others
    kept = scored & (counts[index] > 1)
    advantages = torch.where(kept, advantages, torch.zeros_like(x))
    if normalize_advantages:
        centred, std = _standardised(advantages, kept)
        advantages = centred / (std + STD_FLOOR)
    return advantages.to(rewards.dtype)


def _rows(name: str, values: Tensor) -> int:
    require_floating(name, require_tensor(name, values))
    require_shape(name, values, ("T",))
    return values.shape[0]


def _rows_after(cu_seqlens: Tensor, total: int, device: torch.device) -> Tensor:
    """``[T]`` how many rows of its sequence come after each."""
    ends = cu_seqlens.to(device, torch.int64)
    return torch.repeat_interleave(ends[1:], ends.diff(), output_size=total) - 1 - torch.arange(total, device=device)


def _shifted(values: Tensor, width: int, rows_after: Tensor) -> Tensor:
    """``[T]`` the value ``width`` rows on in the same sequence, 0 beyond its end."""
    return torch.where(rows_after >= width, values.roll(-width), torch.zeros_like(values))


def _grouped(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards (0 where there is no score), which have one, the group number of each, and the scores of each group."""
    require_floating("rewards", require_tensor("rewards", rewards))
    require_shape("rewards", rewards, ("K",))
    require_shape("groups", require_tensor("groups", groups), tuple(rewards.shape))
    if groups.dtype.is_floating_point or groups.dtype == torch.bool:
        raise TypeError(f"groups: expected an integer dtype, found {groups.dtype}")
    if rewards.shape[0] == 0:
        raise ValueError("rewards: expected at least one, found none")
    scored = ~rewards.isnan()
    x = torch.where(scored, rewards, torch.zeros_like(rewards)).to(wide_dtype(rewards.device))
    _, index = torch.unique(groups, return_inverse=True)
    counts = torch.zeros(int(index.max()) + 1, dtype=x.dtype, device=x.device).index_add(0, index, scored.to(x.dtype))
    return x, scored, index, counts


def _standardised(values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Values less the mean of those kept (0 elsewhere), and their unbiased standard deviation; ``values`` are 0 where not kept."""
    count = kept.sum()
    centred = torch.where(kept, values - values.sum() / count.clamp(min=1), torch.zeros_like(values))
    return centred, ((centred * centred).sum() / (count - 1).clamp(min=1)).sqrt()


def _sums(values: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """``[G]``."""
    return torch.zeros_like(counts).index_add(0, index, values)
