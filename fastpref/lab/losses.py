"""The four scenarios of UDRRA as exact population losses of a tabular policy (arXiv 2502.03095).

A loss tells one coefficient a response, ``a(y) = dL / dlp(y)`` with every log-probability a free variable; the gradient in the logits
``theta [..., n]`` is then ``a - pi * sum(a)``, whatever the loss. The posterior ("-P") version of each is the same class on an
:class:`~fastpref.lab.instance.Instance` with a reference, the prior-free version on one without.

Sampling distributions are ``[..., n]`` (single responses) or ``[..., n, n]`` (ordered pairs, see :mod:`~fastpref.lab.pairs`), or ``ON_POLICY``: the
policy itself, not differentiated (detached), unless ``through_sampler`` says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .instance import Instance
from .targets import Array, kl_divergence, log_softmax, sigmoid, softplus

ON_POLICY: Literal["on-policy"] = "on-policy"
Weights: TypeAlias = Array | Literal["on-policy"]


class Update(ABC):
    """What gradient descent needs: a direction. Not every algorithm's direction is the gradient of a loss (see :class:`PolicyGradient`)."""

    @abstractmethod
    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """``a [..., n]`` at a policy with normalised log-probabilities ``log_p [..., n]``."""

    def gradient(self, instance: Instance, theta: npt.ArrayLike) -> Array:
        """The direction of ascent in the logits ``theta [..., n]``: same shape."""
        log_p = log_softmax(theta)
        a = self.coefficients(instance, log_p)
        return np.asarray(a - np.exp(log_p) * a.sum(axis=-1, keepdims=True))


class Loss(Update):
    """An update that is the gradient of a population loss."""

    @abstractmethod
    def value(self, instance: Instance, theta: npt.ArrayLike) -> Array:
        """The loss ``[...]`` at logits ``theta [..., n]``."""


@dataclass(frozen=True, eq=False)
class BDA(Loss):
    """Boltzmann distribution approximation: ``KL(pi || target)``, on-policy. The KL-regularised RL objective divided by ``-tau``."""

    def value(self, instance: Instance, theta: npt.ArrayLike) -> Array:
        """The divergence, ``[...]``; 0 at the target."""
        return kl_divergence(log_softmax(theta), instance.log_target)

    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """``pi * (h - r / tau)``."""
        return np.asarray(np.exp(log_p) * (log_p - instance.log_prior - instance.reward / instance.tau))


@dataclass(frozen=True, eq=False)
class RA(Loss):
    """Reward approximation: ``E_mu u^2`` with ``u = r - tau * h - tau * (log Z + log_z_offset)``.

    Args:
        mu: distribution of single responses ``[..., n]``, or ``ON_POLICY``.
        log_z_offset: the error of the partition function; harmless on-policy, a bias off-policy.
    """

    mu: Weights
    log_z_offset: float = 0.0

    def residual(self, instance: Instance, log_p: Array) -> Array:
        """``u [..., n]``."""
        log_z = instance.log_partition[..., None] + self.log_z_offset
        return np.asarray(instance.reward - instance.tau * (log_p - instance.log_prior + log_z))

    def value(self, instance: Instance, theta: npt.ArrayLike) -> Array:
        """The loss, ``[...]``; 0 at the target if the offset is 0."""
        log_p = log_softmax(theta)
        mu = np.exp(log_p) if isinstance(self.mu, str) else self.mu
        return np.asarray((mu * self.residual(instance, log_p) ** 2).sum(axis=-1))

    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """``-2 tau * mu * u``."""
        mu = np.exp(log_p) if isinstance(self.mu, str) else self.mu
        return np.asarray(-2.0 * instance.tau * mu * self.residual(instance, log_p))


class _PairLoss(Loss):
    """``E_W f(y1, y2)`` over ordered pairs, with ``f`` a function of the policy's margin ``h(y1) - h(y2)``."""

    pairs: Weights

    @abstractmethod
    def per_pair(self, instance: Instance, margin: Array) -> Array:
        """``f [..., n, n]``."""

    @abstractmethod
    def slope(self, instance: Instance, margin: Array) -> Array:
        """``df / dmargin``, ``[..., n, n]``."""

    def value(self, instance: Instance, theta: npt.ArrayLike) -> Array:
        """The loss, ``[...]``."""
        log_p = log_softmax(theta)
        f = self.per_pair(instance, _differences(log_p - instance.log_prior))
        return np.asarray((self._weights(log_p) * f).sum(axis=(-2, -1)))

    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """Each pair's slope, added to its first response and taken from its second."""
        m = self._weights(log_p) * self.slope(instance, _differences(log_p - instance.log_prior))
        return np.asarray(m.sum(axis=-1) - m.sum(axis=-2))

    def _weights(self, log_p: Array) -> Array:
        if isinstance(self.pairs, str):
            p = np.exp(log_p)
            return np.asarray(p[..., :, None] * p[..., None, :])
        return self.pairs


@dataclass(frozen=True, eq=False)
class RDA(_PairLoss):
    """Reward-difference approximation: ``E_W D^2`` with ``D = (r1 - r2) - tau * (h1 - h2)``; quadratic in the logits for fixed pairs.

    Args:
        pairs: weights ``[..., n, n]`` over ordered pairs, or ``ON_POLICY`` (two independent draws of the policy).
    """

    pairs: Weights

    def per_pair(self, instance: Instance, margin: Array) -> Array:
        """``D^2``."""
        return np.asarray((instance.gaps - instance.tau * margin) ** 2)

    def slope(self, instance: Instance, margin: Array) -> Array:
        """``-2 tau D``."""
        return np.asarray(2.0 * instance.tau * (instance.tau * margin - instance.gaps))


@dataclass(frozen=True, eq=False)
class PRA(_PairLoss):
    """Preference-reward approximation: ``E_W KL(p* || sigmoid(z))`` with ``z = tau * (h1 - h2)``; on a posterior instance this is DPO's loss.

    Args:
        pairs: weights ``[..., n, n]`` over ordered pairs, or ``ON_POLICY``.
        labels: ``"bradley_terry"`` (default): ``p* = sigmoid(r1 - r2)``, soft labels or the expectation over random hard ones, the
            gradient is the same. ``"deterministic"``: the better response always wins (a tie counts half); no finite minimiser.
        form: ``"kl"`` (default), or ``"cross_entropy"``: the KL plus the labels' entropy, which is ``-log sigmoid`` in expectation.
        through_sampler: differentiate the on-policy sampling distribution too. The two forms then differ: only ``"kl"`` vanishes at the target.
    """

    pairs: Weights
    labels: Literal["bradley_terry", "deterministic"] = "bradley_terry"
    form: Literal["kl", "cross_entropy"] = "kl"
    through_sampler: bool = False

    def __post_init__(self) -> None:
        if self.labels not in ("bradley_terry", "deterministic"):
            raise ValueError(f"labels: expected 'bradley_terry' or 'deterministic', found {self.labels!r}")
        if self.form not in ("kl", "cross_entropy"):
            raise ValueError(f"form: expected 'kl' or 'cross_entropy', found {self.form!r}")
        if self.through_sampler and not isinstance(self.pairs, str):
            raise ValueError("through_sampler: expected pairs=ON_POLICY, found fixed weights")

    def label(self, instance: Instance) -> Array:
        """``p* [..., n, n]``."""
        if self.labels == "bradley_terry":
            return instance.preference
        return np.asarray(0.5 + 0.5 * np.sign(instance.gaps))

    def per_pair(self, instance: Instance, margin: Array) -> Array:
        """``KL(p* || sigmoid(z))``, or the cross-entropy."""
        p, z = self.label(instance), instance.tau * margin
        cross_entropy = p * softplus(-z) + (1.0 - p) * softplus(z)
        return cross_entropy if self.form == "cross_entropy" else np.asarray(cross_entropy - _label_entropy(p))

    def slope(self, instance: Instance, margin: Array) -> Array:
        """``tau * (sigmoid(z) - p*)``."""
        return np.asarray(instance.tau * (sigmoid(instance.tau * margin) - self.label(instance)))

    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """The pairs' slopes; with ``through_sampler`` also ``f`` of every pair that a response takes part in."""
        a = super().coefficients(instance, log_p)
        if self.through_sampler:
            f = self._weights(log_p) * self.per_pair(instance, _differences(log_p - instance.log_prior))
            a = a + f.sum(axis=-1) + f.sum(axis=-2)
        return a


KLTerm: TypeAlias = Literal["k1_in_reward", "k2", "k3", "k1_as_loss"]


@dataclass(frozen=True, eq=False)
class PolicyGradient(Update):
    """The exact on-policy policy gradient ``-E[A grad lp]`` with a KL term of weight ``tau``: its fixed point depends on how that enters.

    With ``d = log_prior - lp = -h``: ``k1_in_reward`` (PPO, RLOO) subtracts ``tau * h`` from the reward; ``k2`` adds ``d^2 / 2``, ``k3``
    ``exp(d) - d - 1`` (GRPO), ``k1_as_loss`` ``-d`` to the loss. The first two stop at the Boltzmann target, ``k3`` at
    :func:`~fastpref.lab.targets.forward_kl_tilt`; the last regularises nothing. Needs an instance with a reference for ``k3``'s limit to hold.

    Args:
        kl: one of the four above.
        scale_by_std: divide the advantage by the standard deviation of the reward under the policy (GRPO), which makes the temperature
            ``tau * std`` at the fixed point.
    """

    kl: KLTerm = "k1_in_reward"
    scale_by_std: bool = False

    def __post_init__(self) -> None:
        if self.kl not in ("k1_in_reward", "k2", "k3", "k1_as_loss"):
            raise ValueError(f"kl: expected 'k1_in_reward', 'k2', 'k3' or 'k1_as_loss', found {self.kl!r}")

    def coefficients(self, instance: Instance, log_p: Array) -> Array:
        """``pi * (-A + tau * the KL term's coefficient)``."""
        p, h = np.exp(log_p), log_p - instance.log_prior
        reward = instance.reward - instance.tau * h if self.kl == "k1_in_reward" else instance.reward
        advantage = reward - (p * reward).sum(axis=-1, keepdims=True)
        if self.scale_by_std:
            advantage = advantage / np.sqrt((p * advantage**2).sum(axis=-1, keepdims=True))
        if self.kl == "k2":
            advantage = advantage - instance.tau * h
        elif self.kl == "k3":
            advantage = advantage + instance.tau * np.expm1(-h)
        elif self.kl == "k1_as_loss":
            advantage = advantage - instance.tau
        return np.asarray(-p * advantage)


def group_rda(residual: npt.ArrayLike) -> Array:
    """RDA over the ``K`` samples of a prompt: the mean of ``(u_i - u_j)^2`` over ordered pairs, as twice the unbiased variance.

    Args:
        residual: ``u = r - tau * h`` of each sample, ``[..., K]``, ``K >= 2``.

    Returns:
        ``[...]``. Its derivative in ``lp_i`` is ``-4 tau (u_i - mean u) / (K - 1)``.
    """
    return np.asarray(2.0 * np.var(np.asarray(residual, dtype=np.float64), axis=-1, ddof=1))


def shift_bounds(instance: Instance, theta: npt.ArrayLike, mu: npt.ArrayLike) -> tuple[Array, Array, Array, Array]:
    """How far DPO (pairs from ``mu x mu``) can be from on-policy PRA at one policy: a chain of four ascending numbers, each ``[...]``.

    ``|L_PRA - L_DPO| <= B TV(pi x pi, mu x mu) <= 2 B TV(pi, mu) <= B sqrt(2 KL(mu || pi))``, with ``B = max KL(p* || p_theta)``
    over pairs and the label entropy removed.

    Args:
        instance: rewards and reference.
        theta: the policy's logits ``[..., n]``.
        mu: the data's distribution ``[..., n]``, positive.
    """
    log_p, mu = log_softmax(theta), np.asarray(mu, dtype=np.float64)
    p = np.exp(log_p)
    here, there = p[..., :, None] * p[..., None, :], mu[..., :, None] * mu[..., None, :]
    f = PRA(ON_POLICY).per_pair(instance, _differences(log_p - instance.log_prior))
    bound = f.max(axis=(-2, -1))
    return (
        np.asarray(np.abs(((here - there) * f).sum(axis=(-2, -1)))),
        np.asarray(bound * 0.5 * np.abs(here - there).sum(axis=(-2, -1))),
        np.asarray(bound * np.abs(p - mu).sum(axis=-1)),
        np.asarray(bound * np.sqrt(2.0 * kl_divergence(np.log(mu), log_p))),
    )


def _differences(x: Array) -> Array:
    return np.asarray(x[..., :, None] - x[..., None, :])


def _label_entropy(p: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -(p * np.log(p) + (1.0 - p) * np.log1p(-p))
    return np.where((p > 0.0) & (p < 1.0), h, 0.0)
