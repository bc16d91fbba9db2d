"""Pairwise losses that are not functions of the margin alone: token means, each response by itself, likelihood terms.

In the texts ``A = beta h_w``, ``B = beta h_l``, ``m`` is a token mean, and ``NLL_w`` the mean over all chosen completion tokens of the call.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...errors import require_at_least, require_between, require_choice, require_number, require_positive
from ..base import BOLTZMANN, PairwiseObjective, Traits, pair_metrics
from ..batch import SequenceBatch
from ..dpo_family import DPOFamily
from ..functions import clamped_expm1, log1mexp, relu, sigmoid, smoothed_softplus, softplus
from .log_ratio import LogRatioLoss

NO_TARGET = "none that is finite: monotone in h of each response"
LENGTH_TILTED = "pi_ref exp(T (r + c) / beta) / Z, T the length"


@dataclass(frozen=True)
class SigmoidNorm(DPOFamily):
    """Length-normalised DPO, TRL's ``sigmoid_norm`` (Tulu 3, arXiv 2411.15124): ``softplus(-z)``, ``z = beta (phi(h_w)/T_w - phi(h_l)/T_l)``."""

    name: ClassVar[str] = "sigmoid_norm"
    traits = Traits(
        scenario="PRA",
        target=LENGTH_TILTED,
        formula="softplus(-z), z = beta (h_w/T_w - h_l/T_l)",
        derivative="a_w = -beta sigmoid(-z) / T_w, a_l = beta sigmoid(-z) / T_l",
        coupling="pair",
        reference="optional",
        token_reduction="mean",
        paper="2411.15124",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return softplus(-self.beta * (self.score(chosen) / chosen.lengths - self.score(rejected) / rejected.lengths))


@dataclass(frozen=True)
class NCAPair(LogRatioLoss):
    """Noise-contrastive alignment on pairs, TRL's ``nca_pair`` (arXiv 2402.05369; ``beta`` 0.01 in the paper).

    ``softplus(-A) + softplus(A) / 2 + softplus(B) / 2``: keeps the chosen response's likelihood from falling.
    """

    name: ClassVar[str] = "nca_pair"
    traits = Traits(
        scenario="PRA",
        target="per response beta h = log(2 P(y > mu))",
        formula="softplus(-A) + softplus(A)/2 + softplus(B)/2",
        derivative="a_w = beta (1.5 sigmoid(A) - 1), a_l = beta sigmoid(B) / 2",
        coupling="pair",
        reference="required",
        paper="2402.05369",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        a, b = self.beta * chosen.log_ratio(), self.beta * rejected.log_ratio()
        return softplus(-a) + 0.5 * softplus(a) + 0.5 * softplus(b)


@dataclass(frozen=True)
class BCOPair(LogRatioLoss):
    """Binary classifier optimisation on pairs without its shift, TRL's ``bco_pair`` (arXiv 2404.04656; ``beta`` 0.01 in the paper).

    ``softplus(-A) + softplus(B)``.
    """

    name: ClassVar[str] = "bco_pair"
    traits = Traits(
        scenario="PRA",
        target="per response beta h = logit P(y > mu)",
        formula="softplus(-A) + softplus(B)",
        derivative="a_w = -beta sigmoid(-A), a_l = beta sigmoid(B)",
        coupling="pair",
        reference="required",
        paper="2404.04656",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return softplus(-self.beta * chosen.log_ratio()) + softplus(self.beta * rejected.log_ratio())


@dataclass(frozen=True)
class APOZero(LogRatioLoss):
    """Anchored preference optimisation for chosen responses better than the model, TRL's ``apo_zero`` (arXiv 2408.06266).

    ``1 - sigmoid(A) + sigmoid(B)``: chosen up, rejected down.
    """

    name: ClassVar[str] = "apo_zero"
    traits = Traits(
        scenario="PRA",
        target=NO_TARGET,
        formula="1 - sigmoid(A) + sigmoid(B)",
        derivative="a_w = -beta sigmoid'(A), a_l = beta sigmoid'(B)",
        coupling="pair",
        reference="required",
        paper="2408.06266",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return sigmoid(-self.beta * chosen.log_ratio()) + sigmoid(self.beta * rejected.log_ratio())


@dataclass(frozen=True)
class APODown(LogRatioLoss):
    """Anchored preference optimisation for chosen responses worse than the model, TRL's ``apo_down`` (arXiv 2408.06266).

    ``sigmoid(A) + 1 - sigmoid(A - B)``: chosen down, rejected further down.
    """

    name: ClassVar[str] = "apo_down"
    traits = Traits(
        scenario="PRA",
        target=NO_TARGET,
        formula="sigmoid(A) + 1 - sigmoid(z), z = A - B",
        derivative="a_w = beta (sigmoid'(A) - sigmoid'(z)), a_l = beta sigmoid'(z)",
        coupling="pair",
        reference="required",
        paper="2408.06266",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        h_w, h_l = chosen.log_ratio(), rejected.log_ratio()
        return sigmoid(self.beta * h_w) + sigmoid(-self.beta * (h_w - h_l))


@dataclass(frozen=True)
class SPPOHard(LogRatioLoss):
    """Self-play preference optimisation with hard labels, TRL's ``sppo_hard`` (arXiv 2405.00675; ``beta`` 0.001 in the paper).

    ``(h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2``; TRL drops the paper's factor 1/2. The reference is the policy of the last round.
    """

    name: ClassVar[str] = "sppo_hard"
    traits = Traits(
        scenario="RA",
        target="per round pi_ref exp(P(y > pi_ref) / beta) / Z: multiplicative weights towards the Nash policy",
        formula="(h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2",
        derivative="a_w = 2 (h_w - 1/(2 beta)), a_l = 2 (h_l + 1/(2 beta))",
        coupling="pair",
        reference="required",
        paper="2405.00675",
    )

    def unweighted(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        shift = 1.0 / (2.0 * self.beta)
        return (chosen.log_ratio() - shift) ** 2 + (rejected.log_ratio() + shift) ** 2


@dataclass(frozen=True)
class SPPO(PairwiseObjective):
    """Self-play preference optimisation (arXiv 2405.00675): ``sum over both of (h - (P - 1/2) / beta)^2 / 2``.

    Data: ``win_probs [K]``, each response's probability of winning against the policy of the last round, which is the reference.

    Args:
        beta: inverse step size of a round; above 0.
    """

    beta: float = 1e-3

    name: ClassVar[str] = "sppo"
    traits = Traits(
        scenario="RA",
        target="per round pi_ref exp(P(y > pi_ref) / beta) / Z: multiplicative weights towards the Nash policy",
        formula="sum over w, l of (h_i - (P_i - 1/2)/beta)^2 / 2",
        derivative="a_i = h_i - (P_i - 1/2) / beta",
        coupling="pair",
        reference="required",
        paper="2405.00675",
        data=("win_probs",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return self._error(chosen) + self._error(rejected)

    def _error(self, batch: SequenceBatch) -> Tensor:
        h = batch.log_ratio()
        return 0.5 * (h - (batch.data["win_probs"].to(h.dtype) - 0.5) / self.beta) ** 2


@dataclass(frozen=True)
class DPOP(PairwiseObjective):
    """DPO-Positive (arXiv 2402.13228): DPO with a penalty inside ``beta`` where the chosen response fell below the reference.

    ``softplus(-z)``, ``z = beta (h_w - h_l - dpop_lambda max(0, -h_w))``.

    Args:
        beta: temperature; above 0.
        dpop_lambda: weight of the penalty; 0 or above.
    """

    beta: float = 0.3
    dpop_lambda: float = 50.0

    name: ClassVar[str] = "dpop"
    traits = Traits(
        scenario="PRA",
        target="none in closed form; DPO's where no h_w is below 0",
        formula="softplus(-z), z = beta (h_w - h_l - dpop_lambda max(0, -h_w))",
        derivative="a_w = -beta sigmoid(-z) (1 + dpop_lambda 1[h_w < 0]), a_l = beta sigmoid(-z)",
        coupling="pair",
        reference="required",
        paper="2402.13228",
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_at_least("dpop_lambda", self.dpop_lambda, 0.0)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        h_w = chosen.log_ratio()
        return softplus(-self.beta * (h_w - rejected.log_ratio() - self.dpop_lambda * relu(-h_w)))


@dataclass(frozen=True)
class LikelihoodLoss(PairwiseObjective):
    """Reference-free losses on a reward made of the policy's log-probs, with the chosen responses' likelihood beside it."""

    @abstractmethod
    def reward(self, batch: SequenceBatch) -> Tensor:
        """What ``beta`` multiplies, one number per sequence."""

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """See :func:`pair_metrics`; and TRL's ``nll_loss``, the mean over the chosen completion tokens, where lengths are known."""
        with torch.no_grad():
            found = pair_metrics(self.reward_scale, batch, self.reward(batch))
            return {**found, "nll_loss": chosen_nll(batch.halves()[0]).mean()} if self.traits.needs_lengths else found


def chosen_nll(chosen: SequenceBatch) -> Tensor:
    """``[N]``: each chosen sequence's part of the NLL, whose mean over the pairs of the call is the mean over all its chosen tokens.

    ``-lw_i / mean_j T_j``, over the chosen sequences ``j`` of the whole call. Only the rows given count: completion tokens.
    """
    return -chosen.likelihood() / chosen.call_number("mean_chosen_length")


@dataclass(frozen=True)
class CPOFamily(LikelihoodLoss):
    """What the losses of TRL's CPO trainer share.

    Args:
        beta: temperature of the reward; above 0.
        cpo_alpha: weight of the NLL over all chosen completion tokens of the call; 0 or above.
        label_smoothing: probability that a label is flipped, in [0, 0.5].
    """

    beta: float = 0.1
    cpo_alpha: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_at_least("cpo_alpha", self.cpo_alpha, 0.0)
        require_between("label_smoothing", self.label_smoothing, 0.0, 0.5)

    @abstractmethod
    def contrast(self, margin: Tensor) -> Tensor:
        """``[N]``, from the margins ``[N]`` of the rewards."""

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return self.contrast(self.reward(chosen) - self.reward(rejected)) + self.cpo_alpha * chosen_nll(chosen)


@dataclass(frozen=True)
class CPO(CPOFamily):
    """Contrastive preference optimisation, TRL's CPO trainer (arXiv 2401.08417): prior-free PRA beside an NLL on the chosen response.

    ``softplus(-beta (lw - ll)) + cpo_alpha NLL_w``; ``NLL_w`` is the token mean over all chosen completions of the call.

    Args:
        loss_type: ``"sigmoid"``; ``"hinge"`` ``max(0, 1 - beta (lw - ll))``; ``"ipo"`` ``(m_w - m_l - 1/(2 beta))^2`` on token means. Only
            ``"sigmoid"`` takes ``label_smoothing``.
    """

    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"

    name: ClassVar[str] = "cpo"
    traits = Traits(
        scenario="PRA",
        target="exp(r/tau) / Z, tau = beta, tilted by the NLL towards the chosen responses",
        formula="softplus(-z) + cpo_alpha NLL_w, z = beta (lw - ll)",
        derivative="a_w = -beta sigmoid(-z) - cpo_alpha / mean T_w, a_l = beta sigmoid(-z)",
        coupling="pair",
        reference="none",
        paper="2401.08417",
        data=("lengths",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("loss_type", self.loss_type, ("sigmoid", "hinge", "ipo"))
        if self.loss_type != "sigmoid" and self.label_smoothing != 0.0:
            raise ValueError(
                f"label_smoothing: expected 0 with loss_type {self.loss_type!r}, found {self.label_smoothing!r}"
            )
        if self.loss_type == "hinge":
            self._declare(
                target="z = sign(2p - 1): keeps the order only; tilted by the NLL towards the chosen responses",
                formula="max(0, 1 - z) + cpo_alpha NLL_w, z = beta (lw - ll)",
                derivative="a_w = -beta 1[z < 1] - cpo_alpha / mean T_w, a_l = beta 1[z < 1]",
            )
        if self.loss_type == "ipo":
            self._declare(
                target="per pair m_w - m_l = (2p - 1) / (2 beta), tilted by the NLL towards the chosen responses",
                formula="e^2 + cpo_alpha NLL_w, e = lw/T_w - ll/T_l - 1/(2 beta)",
                derivative="a_w = 2 e / T_w - cpo_alpha / mean T_w, a_l = -2 e / T_l",
                token_reduction="mean",
                data=(),
            )
        elif self.cpo_alpha == 0.0:
            self._declare(margin_only=True, data=())

    def reward(self, batch: SequenceBatch) -> Tensor:
        """The token sum; for ``"ipo"`` the token mean."""
        return batch.mean_logp() if self.loss_type == "ipo" else batch.policy

    def contrast(self, margin: Tensor) -> Tensor:
        """``[N]``."""
        if self.loss_type == "ipo":
            return (margin - 1.0 / (2.0 * self.beta)) ** 2
        if self.loss_type == "hinge":
            return relu(1.0 - self.beta * margin)
        return smoothed_softplus(self.beta * margin, self.label_smoothing)


@dataclass(frozen=True)
class SimPO(CPOFamily):
    """SimPO, ``simpo`` of TRL's CPO trainer (arXiv 2405.14734): token means and a target margin, no reference.

    ``softplus(-z)``, ``z = beta (m_w - m_l) - simpo_gamma``. The paper takes ``beta`` 2 to 2.5 and ``simpo_gamma / beta`` 0.1 to 0.8. A
    ``cpo_alpha`` above 0 adds the NLL of the chosen responses (CPO-SimPO, which is TRL's default for it).

    Args:
        simpo_gamma: target margin, outside ``beta``; 0 or above.
    """

    cpo_alpha: float = 0.0
    simpo_gamma: float = 0.5

    name: ClassVar[str] = "simpo"
    traits = Traits(
        scenario="PRA",
        target="exp(T (r + c) / beta) / Z at gamma = 0, T the length; gamma above 0 widens every gap",
        formula="softplus(-z) + cpo_alpha NLL_w, z = beta (lw/T_w - ll/T_l) - simpo_gamma",
        derivative="a_w = -beta sigmoid(-z) / T_w - cpo_alpha / mean T_w, a_l = beta sigmoid(-z) / T_l",
        coupling="pair",
        reference="none",
        token_reduction="mean",
        paper="2405.14734",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("simpo_gamma", self.simpo_gamma, 0.0)

    def reward(self, batch: SequenceBatch) -> Tensor:
        """The token mean."""
        return batch.mean_logp()

    def contrast(self, margin: Tensor) -> Tensor:
        """``[N]``."""
        return smoothed_softplus(self.beta * margin - self.simpo_gamma, self.label_smoothing)


@dataclass(frozen=True)
class AlphaPO(SimPO):
    """AlphaPO, ``alphapo`` of TRL's CPO trainer (arXiv 2501.03884): SimPO with ``f(m) = (1 - e^(-alpha m)) / alpha`` in place of ``m``.

    The exponent is clamped at 80.

    Args:
        alpha: shape of the reward; not 0 (its limit there is SimPO).
    """

    beta: float = 2.5
    simpo_gamma: float = 0.1
    alpha: float = 0.25

    name: ClassVar[str] = "alphapo"
    traits = Traits(
        scenario="PRA",
        target="beta f(m) = r + c at gamma = 0, m the token mean",
        formula="softplus(-z) + cpo_alpha NLL_w, z = beta (f(lw/T_w) - f(ll/T_l)) - simpo_gamma, f(m) = (1 - e^(-alpha m))/alpha",
        derivative="a_w = -beta sigmoid(-z) e^(-alpha m_w) / T_w - cpo_alpha / mean T_w, a_l = beta sigmoid(-z) e^(-alpha m_l) / T_l",
        coupling="pair",
        reference="none",
        token_reduction="mean",
        paper="2501.03884",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("alpha", self.alpha)
        if self.alpha == 0.0:
            raise ValueError("alpha: expected a number other than 0, found 0.0: the limit there is 'simpo'")

    def reward(self, batch: SequenceBatch) -> Tensor:
        """``f`` of the token mean."""
        return -clamped_expm1(-self.alpha * batch.mean_logp()) / self.alpha


@dataclass(frozen=True)
class ORPO(LikelihoodLoss):
    """Odds-ratio preference optimisation, TRL's ORPO trainer (arXiv 2403.07691): an NLL with a penalty on the odds of the rejected response.

    ``NLL_w + beta softplus(-o)``, ``o = logodds(m_w) - logodds(m_l)``, ``logodds(m) = m - log(1 - e^m)``. ``NLL_w`` is the token mean over the
    rows given, that is over completion tokens; TRL counts the prompts' tokens too. A certain response (``m = 0``) is taken to be ``1e-30`` away.

    Args:
        beta: weight of the odds-ratio term (``lambda`` of the paper); above 0.
    """

    beta: float = 0.1

    name: ClassVar[str] = "orpo"
    traits = Traits(
        scenario="PRA",
        target="logodds(m) = r + c, m the token mean, tilted by the NLL towards the chosen responses",
        formula="NLL_w + beta softplus(-o), o = m_w - m_l - log(1 - e^m_w) + log(1 - e^m_l), m = l/T",
        derivative="a_w = -beta sigmoid(-o) / ((1 - e^m_w) T_w) - 1 / mean T_w, a_l = beta sigmoid(-o) / ((1 - e^m_l) T_l)",
        coupling="pair",
        reference="none",
        token_reduction="mean",
        paper="2403.07691",
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def reward(self, batch: SequenceBatch) -> Tensor:
        """The token mean."""
        return batch.mean_logp()

    def log_odds_ratio(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``o [N]``."""
        m_w, m_l = chosen.mean_logp(), rejected.mean_logp()
        return m_w - m_l - (log1mexp(m_w) - log1mexp(m_l))

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        return chosen_nll(chosen) + self.beta * softplus(-self.log_odds_ratio(chosen, rejected))

    def metrics(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Further TRL's ``log_odds_chosen`` (the mean of ``o``) and ``log_odds_ratio`` (the mean of ``log sigmoid(o)``)."""
        with torch.no_grad():
            odds = self.log_odds_ratio(*batch.halves())
            found = super().metrics(batch)
            return {**found, "log_odds_chosen": odds.mean(), "log_odds_ratio": -softplus(-odds).mean()}


@dataclass(frozen=True)
class SLiCHF(PairwiseObjective):
    """SLiC-HF (arXiv 2305.10425): ``max(0, delta - lw + ll) - lambda_coef lp(y_sft)``.

    Optional data: ``sft_logps [N]``, sequence log-probs of the responses to regularise towards, which may carry a gradient; without them the
    chosen responses are these.

    Args:
        delta: margin; above 0.
        lambda_coef: weight of the likelihood; 0 or above.
    """

    delta: float = 1.0
    lambda_coef: float = 0.1

    name: ClassVar[str] = "slic_hf"
    traits = Traits(
        scenario="PRA",
        target="lw - ll = delta sign(2p - 1): keeps the order only; tilted by the likelihood",
        formula="max(0, delta - lw + ll) - lambda_coef lp(y_sft)",
        derivative="a_w = -1[active], a_l = 1[active], a(y_sft) = -lambda_coef",
        coupling="pair",
        reference="none",
        paper="2305.10425",
        optional_data=("sft_logps",),
    )

    def __post_init__(self) -> None:
        require_positive("delta", self.delta)
        require_at_least("lambda_coef", self.lambda_coef, 0.0)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        likelihood = chosen.data.get("sft_logps", chosen.policy)
        return relu(self.delta - chosen.policy + rejected.policy) - self.lambda_coef * likelihood


@dataclass(frozen=True)
class XPO(PairwiseObjective):
    """Exploratory preference optimisation (arXiv 2405.21046): DPO on a sample of the policy and one of the reference, labelled by a judge.

    ``softplus(-beta (h_w - h_l)) + alpha lp(y of the reference)``: the bonus pushes the policy away from what the reference does.
    Data: ``from_reference [K]`` bool, which of the two responses of a pair the reference sampled.

    Args:
        beta: temperature; above 0.
        alpha: weight of the exploration bonus; 0 or above.
    """

    beta: float = 0.1
    alpha: float = 1e-5

    name: ClassVar[str] = "xpo"
    traits = Traits(
        scenario="PRA",
        target=f"{BOLTZMANN}, as alpha falls to 0",
        formula="softplus(-z) + alpha lp(y of the reference)",
        derivative="a_w = -beta sigmoid(-z) + alpha 1[w of the reference], a_l = beta sigmoid(-z) + alpha 1[l of the reference]",
        coupling="pair",
        reference="required",
        paper="2405.21046",
        data=("from_reference",),
    )

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_at_least("alpha", self.alpha, 0.0)

    def pair_losses(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        """``[N]``."""
        bonus = (
            chosen.data["from_reference"] * chosen.policy + rejected.data["from_reference"] * rejected.policy
        ) * self.alpha
        return softplus(-self.beta * (chosen.log_ratio() - rejected.log_ratio())) + bonus
