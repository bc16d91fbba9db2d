"""DPO-trainer losses that are written in the log-ratios themselves and have no generalisation to other f-divergences."""

from __future__ import annotations

from dataclasses import dataclass

from ..dpo_family import DPOFamily


@dataclass(frozen=True)
class LogRatioLoss(DPOFamily):
    """A loss of the DPO trainer that refuses every ``f_divergence_type`` but ``"reverse_kl"``, as TRL does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.f_divergence_type != "reverse_kl":
            raise ValueError(
                f"f_divergence_type: expected 'reverse_kl', found {self.f_divergence_type!r}: "
                f"{self.name} has no generalisation to other divergences"
            )
