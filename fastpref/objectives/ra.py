"""RA, reward approximation: regressions of the implicit reward ``tau h + tau log Z`` on given rewards, one sequence at a time.

The losses differ in where ``Z`` comes from: given (:class:`RA`), learned (:class:`DROV`), in closed form after a quantile transform (:class:`QRPO`), estimated
beforehand (:class:`AStarPO`), replaced by the group mean (:class:`GroupRegression`), or avoided by a link function (:class:`UNA`). A wrong ``Z`` is harmless
on-policy, where it is only a baseline; off-policy it moves the target. :func:`log_partition`, :func:`optimal_value` and
:func:`reward_quantiles` make the data from rewards of reference samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .._checks import is_traced, may_synchronise, require_shape
from ..errors import require_at_least, require_choice, require_flag, require_positive
from .base import BOLTZMANN, GroupObjective, Groups, SequenceObjective, Traits
from .batch import SequenceBatch
from .functions import log1mexp, log_of, sigmoid, softplus
from .sampled import require_per_sequence


def log_partition(reference_rewards: Tensor, tau: float) -> Tensor:
    """Monte Carlo ``log Z_P = logsumexp_k(r_k / tau) - log m`` from samples of the reference; biased low (Jensen), less with larger ``m``.

    Args:
        reference_rewards: ``[..., m]`` rewards of the reference's samples for each prompt.
        tau: temperature, above 0.

    Returns:
        ``[...]``.
    """
    require_positive("tau", tau)
    if reference_rewards.dim() == 0 or reference_rewards.shape[-1] == 0:
        raise ValueError(
            f"reference_rewards: expected shape [..., m] with m >= 1, found {list(reference_rewards.shape)}"
        )
    return torch.logsumexp(reference_rewards / tau, dim=-1) - math.log(reference_rewards.shape[-1])


def optimal_value(reference_rewards: Tensor, beta1: float = 0.5) -> Tensor:
    """A*-PO's ``V* = beta1 (logsumexp_k(r_k / beta1) - log m)`` (arXiv 2505.20686), ``[...]`` from ``reference_rewards [..., m]``; the paper draws 8."""
    require_positive("beta1", beta1)
    return beta1 * log_partition(reference_rewards, beta1)


def reward_quantiles(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """QRPO's ``q``: which part of the reference's samples has a reward not above that of the sequence.

    Args:
        rewards: ``[K]``.
        reference_rewards: ``[K, m]`` rewards of reference samples for the prompt of each sequence.

    Returns:
        ``[K]`` in [0, 1].
    """
    require_shape("reference_rewards", reference_rewards, (rewards.shape[0], "m"))
    dtype = rewards.dtype if rewards.dtype.is_floating_point else torch.float32
    return (reference_rewards <= rewards[:, None]).to(dtype).mean(dim=1)


@dataclass(frozen=True)
class RA(SequenceObjective):
    """Reward approximation (arXiv 2502.03095): ``u^2`` with ``u = r - beta h - beta log Z``.

    Needs ``rewards [K]`` and ``log_z [K]``, the logarithm of the prompt's partition function at ``tau = beta``: ``log sum_y pi_ref exp(r / tau)``, without
    a reference ``log sum_y exp(r / tau)``; see :func:`log_partition`. Any sampling distribution with full support will do.

    Args:
        beta: temperature ``tau``, above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "ra"
    traits = Traits(
        scenario="RA",
        target=BOLTZMANN,
        formula="u^2, u = r - beta h - beta log Z",
        derivative="-2 beta u",
        coupling="sequence",
        reference="optional",
        paper="2502.03095",
        data=("rewards", "log_z"),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        return (batch.data["rewards"] - self.beta * (batch.log_ratio() + batch.data["log_z"])) ** 2


@dataclass(frozen=True)
class GroupRegression(GroupObjective):
    """Regression on the group's centred rewards: the mean over a group of ``u^2`` with ``u = r - mean_group r - beta h``.

    The mean stands in for ``tau log Z``, which is right on-policy only: there any constant is a baseline, off-policy it moves the target. Needs
    ``rewards [K]`` and ``groups [K]``.

    Args:
        beta: temperature ``tau``, above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "group_regression"
    traits = Traits(
        scenario="RA",
        target=BOLTZMANN + " (on-policy samples only)",
        formula="mean_group u^2, u = r - mean_group r - beta h",
        derivative="-2 beta u / group size",
        coupling="group",
        reference="optional",
        paper="2502.03095",
        data=("rewards", "groups"),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def group_losses(self, batch: SequenceBatch, groups: Groups) -> Tensor:
        """``[G]``."""
        rewards = groups.take(batch.data["rewards"])
        centred = rewards - (rewards.sum(dim=1) / groups.sizes)[:, None]
        u = torch.where(groups.valid, centred - self.beta * groups.take(batch.log_ratio()), torch.zeros_like(centred))
        return (u * u).sum(dim=1) / groups.sizes


@dataclass(frozen=True)
class DROV(SequenceObjective):
    """Direct reward optimisation with a learned value (arXiv 2405.19107): ``u^2 / 2`` with ``u = r - V - beta h``.

    Needs ``rewards [K]`` and ``values [K]``, one ``V(x)`` per sequence, which may require a gradient (``-u``) and learns ``tau log Z``. With a value net of
    its own no gradient crosses between the two.

    Args:
        beta: temperature ``tau``, above 0.
        drop_beta: the published update: the policy's derivative is ``-u`` in place of ``-beta u``; the value's and the loss stay.
    """

    beta: float = 1.0
    drop_beta: bool = False

    name: ClassVar[str] = "dro_v"
    traits = Traits(
        scenario="RA",
        target=BOLTZMANN,
        formula="u^2 / 2, u = r - V - beta h",
        derivative="-beta u; d/dV = -u",
        coupling="sequence",
        reference="optional",
        paper="2405.19107",
        data=("rewards", "values"),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_flag("drop_beta", self.drop_beta)
        if self.drop_beta:
            self._declare(derivative="-u; d/dV = -u", surrogate=True)

    def check(self, batch: SequenceBatch) -> None:
        """One value per sequence."""
        super().check(batch)
        require_per_sequence(self.name, batch, "values")

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        h = batch.log_ratio()
        implicit = self.beta * h
        if self.drop_beta:
            implicit = implicit.detach() + (h - h.detach())
        u = batch.data["rewards"] - batch.data["values"] - implicit
        return 0.5 * u * u


@dataclass(frozen=True)
class QRPO(SequenceObjective):
    """Quantile reward policy optimisation (arXiv 2507.08068): ``u^2`` with ``u = f(q) - beta log Z - beta h``.

    ``q`` (data ``quantiles [K]``, from :func:`reward_quantiles`) is uniform under the reference, so that ``Z`` of the transformed reward ``f(q)`` is known:

    ==============  ============================  =============================================
    transform       ``f(q)``                      ``Z``
    ==============  ============================  =============================================
    ``"identity"``  ``q``                         ``beta (e^(1/beta) - 1)``
    ``"log"``       ``log max(q, 1/m)``           ``beta / (1 + beta)``
    ``"normal"``    ``icdf(q)``, standard normal  ``e^(1 / (2 beta^2))``
    ==============  ============================  =============================================

    For ``"normal"`` quantiles are kept within ``[1/(2m), 1 - 1/(2m)]``: 0 and 1 occur and have no finite value.

    Args:
        beta: temperature, above 0; 3e-4 to 3e-3 in the paper, for ``"identity"``.
        transform: ``"identity"``, ``"log"`` or ``"normal"``.
        loss: ``"square"``, or ``"abs"`` for ``|u|``.
        num_reference_samples: ``m``, the reference samples behind each quantile, 1 or more; ``"log"`` and ``"normal"`` need it.
    """

    beta: float = 1e-3
    transform: Literal["identity", "log", "normal"] = "identity"
    loss: Literal["square", "abs"] = "square"
    num_reference_samples: int | None = None

    name: ClassVar[str] = "qrpo"
    traits = Traits(
        scenario="RA",
        target="pi_ref exp(f(q)/tau) / Z, tau = beta",
        formula="u^2, u = f(q) - beta log Z - beta h",
        derivative="-2 beta u",
        coupling="sequence",
        reference="required",
        paper="2507.08068",
        data=("quantiles",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_choice("transform", self.transform, ("identity", "log", "normal"))
        require_choice("loss", self.loss, ("square", "abs"))
        if self.num_reference_samples is not None:
            require_at_least("num_reference_samples", self.num_reference_samples, 1)
        elif self.transform != "identity":
            raise ValueError(f"num_reference_samples: transform {self.transform!r} needs it, found None")
        if self.loss == "abs":
            self._declare(formula="|u|, u = f(q) - beta log Z - beta h", derivative="-beta sign(u)")

    def check(self, batch: SequenceBatch) -> None:
        """Quantiles are in [0, 1]."""
        super().check(batch)
        _require_unit_interval("quantiles", batch.data["quantiles"])

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        u = self._residual_reward(batch.data["quantiles"]) - self.beta * batch.log_ratio()
        return u.abs() if self.loss == "abs" else u * u

    def _residual_reward(self, q: Tensor) -> Tensor:
        """``f(q) - beta log Z``, ``[K]``; ``Z`` never by itself, ``e^(1/beta)`` overflows."""
        beta = torch.zeros_like(q) + self.beta
        if self.transform == "identity":
            # beta log Z = beta log beta + 1 + beta log(1 - e^(-1/beta))
            return q - 1.0 - beta * (log_of(self.beta) + log1mexp(-1.0 / beta))
        least = 1.0 / (1 if self.num_reference_samples is None else self.num_reference_samples)
        if self.transform == "log":
            return torch.log(torch.clamp(q, min=least)) - beta * (log_of(self.beta) - torch.log1p(beta))
        inside = torch.clamp(q, 0.5 * least, 1.0 - 0.5 * least)
        return math.sqrt(2.0) * torch.erfinv(2.0 * inside - 1.0) - 0.5 / beta


@dataclass(frozen=True)
class AStarPO(SequenceObjective):
    """Optimal advantage regression, the second stage of A*-PO (arXiv 2505.20686): ``(beta2 h - (r - V*))^2`` on samples of the policy.

    Needs ``rewards [K]`` and ``values [K]``, the first stage's ``V*`` of each sequence's prompt from :func:`optimal_value`. On-policy ``V*`` is a baseline; as the
    exact ``beta2 log Z`` it is right on any samples.

    Args:
        beta2: temperature, above 0.
    """

    beta2: float = 1e-3

    name: ClassVar[str] = "astar_po"
    traits = Traits(
        scenario="RA",
        target="pi_ref exp(r/tau) / Z, tau = beta2 (on-policy samples, or exact V*)",
        formula="(beta2 h - (r - V*))^2",
        derivative="2 beta2 (beta2 h - (r - V*))",
        coupling="sequence",
        reference="optional",
        paper="2505.20686",
        data=("rewards", "values"),
    )

    def __post_init__(self) -> None:
        require_positive("beta2", self.beta2)

    def check(self, batch: SequenceBatch) -> None:
        """One value per sequence."""
        super().check(batch)
        require_per_sequence(self.name, batch, "values")

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        return (self.beta2 * batch.log_ratio() - (batch.data["rewards"] - batch.data["values"])) ** 2


@dataclass(frozen=True)
class UNA(SequenceObjective):
    """Unified alignment (arXiv 2408.15339): ``sigmoid(beta h)`` fitted to a rating; the link takes the place of ``Z``.

    Mode ``"score"`` needs ``rewards [K]`` in [0, 1] and takes ``(sigmoid(beta h) - r)^2``. Mode ``"binary"`` needs ``desirable [K]`` (bool) and takes ``softplus(-beta h)``
    where desirable, ``softplus(beta h)`` where not, or the square with rating 1 or 0.

    Args:
        beta: temperature, above 0; the paper takes 0.03 for scores, 0.01 for binary labels (the default of ``una_binary``).
        mode: ``"score"`` or ``"binary"``.
        binary_loss: ``"log"`` or ``"square"``; of mode ``"binary"`` only.
    """

    beta: float = 0.03
    mode: Literal["score", "binary"] = "score"
    binary_loss: Literal["log", "square"] = "log"

    name: ClassVar[str] = "una"
    traits = Traits(
        scenario="RA",
        target="beta h = logit of the mean rating, per response (before normalisation)",
        formula="(sigmoid(beta h) - r)^2",
        derivative="2 beta sigmoid'(beta h) (sigmoid(beta h) - r)",
        coupling="sequence",
        reference="optional",
        paper="2408.15339",
        data=("rewards",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_choice("mode", self.mode, ("score", "binary"))
        require_choice("binary_loss", self.binary_loss, ("log", "square"))
        if self.mode == "binary":
            self._declare(data=("desirable",))
        if self._is_log():
            self._declare(formula="softplus(-+ beta h)", derivative="beta (sigmoid(beta h) - label)")

    def _is_log(self) -> bool:
        return self.mode == "binary" and self.binary_loss == "log"

    def check(self, batch: SequenceBatch) -> None:
        """Ratings are in [0, 1]."""
        super().check(batch)
        if self.mode == "score":
            _require_unit_interval("rewards", batch.data["rewards"])

    def losses(self, batch: SequenceBatch) -> Tensor:
        """``[K]``."""
        z = self.beta * batch.log_ratio()
        if self.mode == "score":
            return (sigmoid(z) - batch.data["rewards"]) ** 2
        desirable = batch.data["desirable"]
        if self.binary_loss == "log":
            return softplus(torch.where(desirable, -z, z))
        # (1 - sigmoid(z))^2 = sigmoid(-z)^2
        return sigmoid(torch.where(desirable, -z, z)) ** 2


def _require_unit_interval(name: str, values: Tensor) -> None:
    if is_traced(values) or not may_synchronise(values.device):
        return
    outside = (values < 0) | (values > 1)
    if bool(outside.any()):
        where = int(outside.nonzero()[0])
        raise ValueError(f"{name}: expected numbers in [0, 1], found {values[where].item()} at position {where}")
