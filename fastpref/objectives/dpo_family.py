"""What TRL's DPO trainer lets every one of its losses take: another f-divergence, length-desensitised sums, WPO's weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import require_between, require_choice, require_flag, require_number, require_positive
from .base import PairwiseObjective
from .batch import SequenceBatch
from .functions import clamped_exp, log_sigmoid

F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True)
class DPOFamily(PairwiseObjective):
    """A loss of the DPO trainer: written in the scores ``phi(h)``, where ``h`` is a sequence's log-ratio to the reference.

    Args:
        beta: temperature of the implicit reward; above 0.
        f_divergence_type: the score ``phi`` (f-DPO, arXiv 2309.16240): ``"reverse_kl"`` ``h``, ``"forward_kl"`` ``1 - e^-h``, ``"js_divergence"``
            ``log 2 sigmoid(h)``, ``"alpha_divergence"`` ``(e^((c-1)h) - 1) / (c-1)``; all are 0 at ``h = 0``, exponents are clamped at 80.
        f_alpha_divergence_coef: ``c`` of the alpha divergence (``1 - alpha`` of the paper); 1 is ``reverse_kl``.
        ld_alpha: LD-DPO (arXiv 2409.06411): weight, in [0, 1], of the tokens beyond the shorter completion's length, in the sums of policy and
            reference; ``None`` switches it off. The paper takes 0.5.
        use_weighting: WPO (arXiv 2406.11827): each pair's loss times the detached ``exp(mean_t(logp_t - log sum_v p_v^2))`` of both sequences,
            not clamped.
    """

    beta: float = 0.1
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    ld_alpha: float | None = None
    use_weighting: bool = False

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_choice("f_divergence_type", self.f_divergence_type, F_DIVERGENCES)
        require_number("f_alpha_divergence_coef", self.f_alpha_divergence_coef)
        if self.ld_alpha is not None:
            require_between("ld_alpha", self.ld_alpha, 0.0, 1.0)
        require_flag("use_weighting", self.use_weighting)
        if self.f_divergence_type != "reverse_kl":
            self._declare(margin_only=False)
        if self.use_weighting:
            self._declare(vocabulary=("log_sum_sq_probs",), surrogate=True)

    @abstractmethod
    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``, before WPO's weights."""

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        losses = self.unweighted(chosen, rejected)
        if not self.use_weighting:
            return losses
        if chosen.aligned is None or rejected.aligned is None:
            raise ValueError(f"{self.name}: use_weighting needs log_sum_sq_probs, found none")
        return torch.exp(chosen.aligned + rejected.aligned).detach() * losses

    def score(self, batch: SequenceBatch) -> Tensor:
        """``phi(h)``, ``[N]``. The constants count where scores are divided by lengths: ``phi(0) = 0`` keeps margins 0 at the reference."""
        h, kind = batch.log_ratio(), self.f_divergence_type
        if kind == "forward_kl":
            return 1.0 - clamped_exp(-h)
        if kind == "js_divergence":
            return math.log(2.0) + log_sigmoid(h)
        # At c = 1 the alpha divergence is the reverse KL. Not expm1: its derivative, expm1 + 1, loses the digits of small exponentials.
        if kind == "alpha_divergence" and not _is_one(self.f_alpha_divergence_coef):
            slope = self.f_alpha_divergence_coef - 1.0
            return (clamped_exp(slope * h) - 1.0) / slope
        return h

    def z(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``beta * (phi(h_w) - phi(h_l))``, ``[N]``."""
        return self.beta * (self.score(chosen) - self.score(rejected))

    @property
    def weights_tokens(self) -> bool:
        """LD-DPO does."""
        return self.ld_alpha is not None

    def token_weights(self, lengths: Tensor, position: Tensor, sequence: Tensor) -> Tensor | None:
        """LD-DPO's: 1 up to the shorter completion's length, ``ld_alpha`` beyond."""
        if self.ld_alpha is None:
            return None
        chosen, rejected = lengths.chunk(2)
        shared = torch.minimum(chosen, rejected).repeat(2)
        weights = torch.ones(position.shape, dtype=torch.float64 if position.device.type != "mps" else torch.float32)
        return weights.to(position.device).masked_fill(position >= shared[sequence], self.ld_alpha)


def _is_one(coef: float | Tensor) -> bool:
    return not isinstance(coef, Tensor) and math.isclose(coef, 1.0, abs_tol=1e-6)
