"""The objective of a run: from the options to an :class:`~fastpref.objectives.Objective`, and the data that pairs give it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..objectives import Objective, PairwiseObjective, objective
from .config import TrainConfig

FROM_PAIRS = ("desirable", "lengths")
"""What preference pairs can tell an objective beside the log-probs: chosen is desirable, rejected is not."""


def objective_of(config: TrainConfig) -> Objective:
    """The objective that ``loss``, ``loss_weights``, ``beta`` and ``loss_options`` mean.

    Raises:
        UserError: an unknown name or option, or an objective that preference pairs cannot train.
    """
    names = [name.strip() for name in config.loss.split(",")]
    options = parse_options(config.loss_options)
    if config.beta is not None:
        if "beta" in options:
            raise UserError("loss_options: beta is given twice, there and as beta")
        options["beta"] = config.beta
    try:
        if len(names) == 1:
            if config.loss_weights is not None:
                raise ValueError("loss_weights: are for several losses (--loss sigmoid,sft)")
            made = objective(names[0], **options)
        else:
            weights = None if config.loss_weights is None else parse_weights(config.loss_weights)
            made = objective(names, loss_weights=weights, **options)
    except (ValueError, TypeError) as error:
        raise UserError(f"loss={config.loss!r}: {error}") from error
    refuse_what_pairs_cannot_train(made, config)
    return made


def refuse_what_pairs_cannot_train(made: Objective, config: TrainConfig) -> None:
    """Objectives that need other data, another reference, or that would do something else on pairs than their name says."""
    traits, label = made.traits, f"loss={config.loss!r}"
    missing = [name for name in traits.data if name not in FROM_PAIRS]
    if missing:
        raise UserError(f"{label}: needs {', '.join(missing)}, which preference pairs do not have")
    if traits.scenario == "NLL" and not isinstance(made, PairwiseObjective) and traits.coupling != "pair":
        raise UserError(f"{label}: would train on the rejected completions too; sft takes the chosen ones")
    if traits.reference == "required" and config.reference == "none":
        raise UserError(f"reference=none: {config.loss} needs a reference")
    if {"forward_kl", "reverse_kl"} & set(traits.vocabulary) and config.reference != "online":
        raise UserError(
            f"reference={config.reference}: {config.loss} needs the reference's whole distribution; give reference=online"
        )


def data_from_pairs(made: Objective, pairs: int, device: torch.device) -> dict[str, Any]:
    """The data of a batch of N chosen, then N rejected completions."""
    if "desirable" not in made.traits.data:
        return {}
    return {"desirable": torch.arange(2 * pairs, device=device) < pairs}


def losses_per_pair(losses: Tensor, pairs: int) -> Tensor:
    """``[N]`` from the losses of a batch's items, to tell whose is not finite: pairs, sequences, or one of the whole batch."""
    if losses.shape[0] == 2 * pairs:
        return losses.view(2, pairs).sum(dim=0)
    return losses if losses.shape[0] == pairs else losses.sum().expand(pairs)


def parse_weights(text: str) -> list[float]:
    """``"1.0,0.005"``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"loss_weights: expected numbers joined by commas, found {text!r}") from None


def parse_options(text: str | None) -> dict[str, Any]:
    """``"label_smoothing=0.1,use_weighting=true"``: numbers, true, false, none, or text.

    Raises:
        UserError: a part that is not ``name=value``, or a name given twice.
    """
    found: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise UserError(f"loss_options: expected name=value joined by commas, found {part.strip()!r}")
        if name in found:
            raise UserError(f"loss_options: {name} is given twice")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
