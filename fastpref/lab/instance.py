"""One prompt with ``n`` responses: the tabular setting in which every expectation of the framework is a finite sum.

Arrays are float64. ``reward`` may carry leading batch axes, ``[..., n]``; everything derived from it then does too.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import require_positive
from .targets import Array, log_boltzmann, log_partition, log_softmax, sigmoid


class Instance:
    """Rewards, a reference and a temperature (arXiv 2502.03095).

    Args:
        reward: ``[..., n]``, finite, ``n >= 2``.
        tau: the temperature, above 0; ``beta`` of DPO-like losses.
        log_reference: logits of the reference policy, broadcastable to ``reward``; normalised here. None (default): prior-free, a log-prior of 0,
            so that ``h = lp`` and ``Z = sum exp(r / tau)``.

    Raises:
        ValueError: a shape does not fit or a number is not finite.

    Example:
        >>> instance = Instance([0.0, 1.0], tau=0.5)
        >>> instance.target.round(4)
        array([0.1192, 0.8808])
    """

    def __init__(self, reward: npt.ArrayLike, *, tau: float, log_reference: npt.ArrayLike | None = None) -> None:
        require_positive("tau", tau)
        self.reward: Array = np.array(reward, dtype=np.float64)
        if self.reward.ndim == 0 or self.reward.shape[-1] < 2:
            raise ValueError(f"reward: expected at least 2 responses, [..., n], found shape {self.reward.shape}")
        self.tau = float(tau)
        self.has_reference = log_reference is not None
        if log_reference is None:
            self.log_prior: Array = np.zeros(self.reward.shape)
        else:
            given = np.asarray(log_reference, dtype=np.float64)
            try:
                logits = np.broadcast_to(given, self.reward.shape)
            except ValueError:
                raise ValueError(
                    f"log_reference: expected a shape that broadcasts to reward's {self.reward.shape}, found {given.shape}"
                ) from None
            self.log_prior = log_softmax(logits)
        for name, array in (("reward", self.reward), ("log_reference", self.log_prior)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers, found {array}")

    @classmethod
    def random(cls, n: int = 6, *, seed: int = 0, tau: float = 0.7) -> Instance:
        """Standard normal rewards, then standard normal reference logits, from ``default_rng(seed)``."""
        generator = np.random.default_rng(seed)
        reward = generator.normal(size=n)
        return cls(reward, tau=tau, log_reference=generator.normal(size=n))

    @property
    def n(self) -> int:
        """Number of responses."""
        return int(self.reward.shape[-1])

    def prior_free(self) -> Instance:
        """The same rewards and temperature without the reference."""
        return Instance(self.reward, tau=self.tau)

    @cached_property
    def log_partition(self) -> Array:
        """``log Z``, ``[...]``; the reference's ``Z_P`` where there is one."""
        return log_partition(self.reward, self.tau, self.log_prior)

    @cached_property
    def log_target(self) -> Array:
        """Log-probabilities of the Boltzmann target, ``[..., n]``."""
        return log_boltzmann(self.reward, self.tau, self.log_prior)

    @cached_property
    def target(self) -> Array:
        """Probabilities of the Boltzmann target, ``[..., n]``."""
        return np.asarray(np.exp(self.log_target))

    @cached_property
    def gaps(self) -> Array:
        """Reward differences ``r_i - r_j``, ``[..., n, n]``."""
        return np.asarray(self.reward[..., :, None] - self.reward[..., None, :])

    @cached_property
    def preference(self) -> Array:
        """Bradley-Terry probabilities that ``i`` beats ``j``, ``[..., n, n]``: ``sigmoid(r_i - r_j)``."""
        return sigmoid(self.gaps)

    def log_ratio(self, theta: npt.ArrayLike) -> Array:
        """``h = lp - log_prior``, ``[..., n]``, of the policy with logits ``theta [..., n]``."""
        return np.asarray(log_softmax(theta) - self.log_prior)

    def implicit_reward(self, theta: npt.ArrayLike) -> Array:
        """``r_theta = tau * h + tau * log Z``, ``[..., n]``; equal to the reward exactly at the target."""
        return np.asarray(self.tau * (self.log_ratio(theta) + self.log_partition[..., None]))

    def distance(self, theta: npt.ArrayLike) -> Array:
        """Total variation between the policy with logits ``theta [..., n]`` and the target, ``[...]``."""
        return np.asarray(0.5 * np.abs(np.exp(log_softmax(theta)) - self.target).sum(axis=-1))
