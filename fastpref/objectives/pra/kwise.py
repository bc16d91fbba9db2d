"""K-wise losses: the ranked, scored or graded responses to one prompt together; items are the G prompts.

``x_k = beta h_k``. Padded group matrices ``[G, M]`` cost G M numbers, comparisons of responses ``[G, M, M]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import require_at_least, require_flag, require_positive
from ..base import BOLTZMANN, GroupObjective, Groups, Traits
from ..batch import SequenceBatch
from ..functions import clamped_expm1, softplus


@dataclass(frozen=True)
class PlackettLuce(GroupObjective):
    """Plackett-Luce DPO on rankings (arXiv 2305.18290): ``sum_k [logsumexp over j not better than k of x_j - x_k]``; two responses: DPO.

    Data: ``groups [K]``; ``ranks [K]``, smaller is better. Responses of equal rank compete against each other as well (Breslow's treatment of
    ties).

    Args:
        beta: temperature; above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "plackett_luce"
    traits = Traits(
        scenario="PRA",
        target=BOLTZMANN,
        formula="sum_k [logsumexp over j with rank_j >= rank_k of x_j, less x_k], x = beta h",
        derivative="beta (sum over i with rank_i <= rank_k of softmax over j with rank_j >= rank_i of x, at k, less 1)",
        coupling="group",
        reference="optional",
        paper="2305.18290",
        data=("groups", "ranks"),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        x, ranks = groups.take(self.beta * batch.log_ratio()), groups.take(batch.data["ranks"])
        competes = (ranks[:, None, :] >= ranks[:, :, None]) & groups.valid[:, None, :]
        # A padded row keeps one entry: a log-sum-exp of nothing has no derivative.
        competes = torch.where(groups.valid[:, :, None], competes, torch.eye(x.shape[1], device=x.device).bool())
        totals = x[:, None, :].expand(competes.shape).masked_fill(~competes, -math.inf).logsumexp(dim=2)
        return torch.where(groups.valid, totals - x, torch.zeros_like(x)).sum(dim=1)


@dataclass(frozen=True)
class RewardContrast(GroupObjective):
    """Losses against the soft labels ``s = softmax(rewards / alpha)`` of each prompt.

    Data: ``groups [K]``, ``rewards [K]``.

    Args:
        beta: temperature of the implicit rewards; above 0.
        alpha: temperature of the given rewards; above 0.
    """

    beta: float = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_positive("alpha", self.alpha)

    def labels(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``s [G, M]``, 0 in the padding."""
        rewards = batch.data["rewards"].detach().to(batch.policy.dtype)
        return groups.take(rewards / self.alpha, -math.inf).softmax(dim=1)


@dataclass(frozen=True)
class InfoNCA(RewardContrast):
    """InfoNCA (arXiv 2402.05369): soft K-wise PRA, ``-sum_k s_k log softmax(x)_k``."""

    name: ClassVar[str] = "infonca"
    traits = Traits(
        scenario="PRA",
        target="pi_ref exp(r/tau) / Z, tau = alpha beta",
        formula="-sum_k s_k log softmax(x)_k, s = softmax(r/alpha), x = beta h",
        derivative="beta (softmax(x)_k - s_k)",
        coupling="group",
        reference="optional",
        paper="2402.05369",
        data=("groups", "rewards"),
    )

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        x = groups.take(self.beta * batch.log_ratio(), -math.inf)
        log_probs = torch.where(groups.valid, x - x.logsumexp(dim=1, keepdim=True), torch.zeros_like(x))
        return -(self.labels(batch, groups) * log_probs).sum(dim=1)


@dataclass(frozen=True)
class NCA(RewardContrast):
    """Noise-contrastive alignment (arXiv 2402.05369): ``sum_k s_k softplus(-x_k) + mean_k softplus(x_k)``."""

    name: ClassVar[str] = "nca"
    traits = Traits(
        scenario="PRA",
        target="per response beta h = log(K s)",
        formula="sum_k s_k softplus(-x_k) + (1/K) sum_k softplus(x_k), s = softmax(r/alpha), x = beta h",
        derivative="beta (-s_k sigmoid(-x_k) + sigmoid(x_k) / K)",
        coupling="group",
        reference="required",
        paper="2402.05369",
        data=("groups", "rewards"),
    )

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        x = self.beta * batch.log_ratio()
        attracted = (self.labels(batch, groups) * groups.take(softplus(-x))).sum(dim=1)
        return attracted + groups.take(softplus(x)).sum(dim=1) / groups.sizes


@dataclass(frozen=True)
class TRPA(GroupObjective):
    """Trust-region preference approximation (arXiv 2504.04524): online PRA-P on graded responses, token means, a trust region.

    ``rho = h / T``; over all pairs ``(i, j)`` of one prompt with ``level_i < level_j``

        mean of softplus(-c_i beta (rho_i - rho_j)) + tr_kl_coef * mean over tokens of clamp(e^d - d - 1, -10, 10),   d = old_logp - logp

    with ``c_i = anisotropy`` where ``level_i = 1``, else 1. A call without any such pair: the mean over its responses of
    ``softplus(-rho)`` where the level is 1, else ``softplus(rho)``. Means are over the whole call; a group's loss is scaled so that the mean over
    the groups is the loss.

    Data: ``groups [K]``; ``levels [K]``, 1 is best (format and answer right; then answer wrong, answer incomplete, bad format). Optional:
    ``old_logps [T]`` token log-probs of the policy that generated the responses; without them the policy has not moved since, and the
    trust-region term is 0.

    Args:
        beta: temperature; above 0.
        anisotropy: factor for pairs with a response of level 1; above 0.
        tr_kl_coef: weight of the trust region; 0 or above.
        tr_kl_sqrt: ``sqrt(KL + 0.25)`` in place of the mean ``KL`` over the tokens; the groups of a call are then coupled.
    """

    beta: float = 0.1
    anisotropy: float = 2.5
    tr_kl_coef: float = 0.001
    tr_kl_sqrt: bool = False

    name: ClassVar[str] = "trpa"
    traits = Traits(
        scenario="PRA",
        target="per pair beta c_i (h_i/T_i - h_j/T_j) = logit p, kept near the policy that generated the responses",
        formula="mean over pairs of softplus(-c_i beta (rho_i - rho_j)) + tr_kl_coef mean over tokens of clamp(e^d - d - 1, -10, 10); "
        "without any pair mean of softplus(-s rho), s = 1 at level 1, else -1",
        derivative="a_i = -c_i beta sigmoid(-z)/T_i, a_j = c_i beta sigmoid(-z)/T_j; a token's tr_kl_coef (1 - e^d) / tokens",
        coupling="group",
        reference="required",
        token_reduction="mean",
        level="token",
        paper="2504.04524",
        data=("groups", "levels"),
        optional_data=("old_logps",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_positive("anisotropy", self.anisotropy)
        require_at_least("tr_kl_coef", self.tr_kl_coef, 0.0)
        require_flag("tr_kl_sqrt", self.tr_kl_sqrt)
        if self.tr_kl_coef == 0.0:
            self._declare(level="sequence", optional_data=())
        elif self.tr_kl_sqrt:
            self._declare(coupling="batch")

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        every = Groups.of(batch.call.data["groups"])
        pairs = _better(every, batch.call.data).sum()
        return self._preferences(batch, groups, every, pairs) + self._trust_region(batch, groups, every)

    def _preferences(self, batch: SequenceBatch, groups: Groups, every: Groups, pairs: Tensor) -> Tensor:
        """``[G]``; ``pairs`` of the call, of which this batch may be a part."""
        mean_ratio = batch.log_ratio() / batch.lengths
        first = batch.data["levels"] == 1
        scale = groups.take(self.beta * (1.0 + (self.anisotropy - 1.0) * first.to(mean_ratio.dtype)))
        rho = groups.take(mean_ratio)
        z = scale[:, :, None] * (rho[:, :, None] - rho[:, None, :])
        contrasts = torch.where(_better(groups, batch.data), softplus(-z), torch.zeros_like(z)).sum(dim=(1, 2))
        alone = groups.take(softplus(torch.where(first, -mean_ratio, mean_ratio))).sum(dim=1)
        count, responses = every.sizes.shape[0], every.sizes.sum()
        return torch.where(pairs > 0, contrasts * count / pairs.clamp(min=1), alone * count / responses)

    def _trust_region(self, batch: SequenceBatch, groups: Groups, every: Groups) -> Tensor:
        """``[G]``."""
        if "old_logps" not in batch.data or self.tr_kl_coef == 0.0:
            return torch.zeros(groups.sizes.shape, dtype=batch.policy.dtype, device=batch.policy.device)
        if batch.tokens is None:
            raise ValueError(f"{self.name}: old_logps needs token log-probs; found sequence sums [K]")
        tokens, old = batch.tokens, batch.data["old_logps"].detach()
        if old.shape != tokens.policy.shape:
            raise ValueError(f"{self.name}: old_logps: expected {list(tokens.policy.shape)}, found {list(old.shape)}")
        d = torch.where(tokens.active, old - tokens.policy, torch.zeros_like(tokens.policy))
        divergence = groups.take(tokens.sums(torch.clamp(clamped_expm1(d) - d, -10.0, 10.0))).sum(dim=1)
        count = batch.token_total()
        if self.tr_kl_sqrt:
            return (self.tr_kl_coef * torch.sqrt(divergence.sum() / count + 0.25)).expand(groups.sizes.shape)
        return self.tr_kl_coef * divergence * every.sizes.shape[0] / count


def _better(groups: Groups, data: Mapping[str, Tensor]) -> Tensor:
    """``[G, M, M]`` bool: response i of a group has a better (smaller) level than response j."""
    levels = groups.take(data["levels"])
    return (levels[:, :, None] < levels[:, None, :]) & groups.valid[:, :, None] & groups.valid[:, None, :]
