"""Modules over the functional surface, for code that composes losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .objectives.base import Objective
from .preference import PreferenceOutput, Reference, linear_preference_loss, resolve_objective


class LinearPreferenceLoss(nn.Module):
    """:func:`fastpref.linear_preference_loss` with its objective and options fixed.

    Call it inside the ``forward`` of the module that is wrapped by DDP or FSDP2, and give it the head's own weight there, so that the
    wrapper's hooks see the gradient.

    Args:
        objective: a name, with its hyper-parameters in ``options``, or an ``Objective``.
        **options: hyper-parameters, and any of ``ignore_index``, ``temperature``, ``softcap``, ``logit_scale``, ``budget_bytes``, ``plan``, ``backend``.

    Raises:
        TypeError: an unknown option.
    """

    HEAD_OPTIONS = ("ignore_index", "temperature", "softcap", "logit_scale", "budget_bytes", "plan", "backend")

    def __init__(self, objective: str | Objective, **options: Any) -> None:
        super().__init__()
        self.options = {k: options.pop(k) for k in self.HEAD_OPTIONS if k in options}
        self.objective, _ = resolve_objective(objective, options)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor,
        *,
        bias: Tensor | None = None,
        reference: Reference = None,
        **data: Any,
    ) -> PreferenceOutput:
        """As :func:`fastpref.linear_preference_loss`."""
        return linear_preference_loss(
            self.objective, hidden, weight, targets, cu_seqlens, bias=bias, reference=reference, **self.options, **data
        )

    def extra_repr(self) -> str:
        """The objective and the options that were set."""
        return ", ".join([repr(self.objective), *(f"{k}={v!r}" for k, v in self.options.items())])
