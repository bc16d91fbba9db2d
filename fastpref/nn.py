"""Modules over the functional surface, for code that composes losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .arguments import ObjectiveLike, checked_state, named_data, resolve_objective
from .preference import PreferenceOutput, Reference, linear_preference_loss


class LinearPreferenceLoss(nn.Module):
    """:func:`fastpref.linear_preference_loss` with its objective and options fixed.

    Call it inside the ``forward`` of the module that is wrapped by DDP or FSDP2, and give it the head's own weight there, so that the
    wrapper's hooks see the gradient. An objective's state (BCO's running mean, say) is carried from call to call in training mode, is used
    and left alone in evaluation mode, and is part of ``state_dict``.

    Args:
        objective: a name or a list of names, with hyper-parameters in ``options``, an ``Objective``, or a function.
        **options: hyper-parameters, and any of ``ignore_index``, ``temperature``, ``softcap``, ``logit_scale``, ``budget_bytes``, ``plan``, ``backend``,
            ``gradient_filter``. A temperature per row belongs to a call: give it to ``forward``, where it takes the place of the module's.

    Raises:
        TypeError: an unknown option.
    """

    HEAD_OPTIONS = (
        "ignore_index",
        "temperature",
        "softcap",
        "logit_scale",
        "budget_bytes",
        "plan",
        "backend",
        "gradient_filter",
    )

    def __init__(self, objective: ObjectiveLike, **options: Any) -> None:
        super().__init__()
        self.options = {k: options.pop(k) for k in self.HEAD_OPTIONS if k in options}
        self.objective, rest = resolve_objective(objective, options)
        if rest:
            named_data(self.objective, rest)  # names what is unknown
            raise TypeError(f"{next(iter(rest))}: is data of a call; give it to forward, not to the module")
        self.state = self.objective.initial_state()

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor,
        *,
        bias: Tensor | None = None,
        reference: Reference = None,
        token_weights: Tensor | None = None,
        temperature: float | Tensor | None = None,
        main_grad: Tensor | None = None,
        **data: Any,
    ) -> PreferenceOutput:
        """As :func:`fastpref.linear_preference_loss`; ``temperature=None`` is the module's."""
        options = self.options if temperature is None else self.options | {"temperature": temperature}
        out = linear_preference_loss(
            self.objective,
            hidden,
            weight,
            targets,
            cu_seqlens,
            bias=bias,
            reference=reference,
            token_weights=token_weights,
            main_grad=main_grad,
            state=self.state,
            **options,
            **data,
        )
        if self.training:
            self.state = out.state
        return out

    def get_extra_state(self) -> dict[str, Tensor]:
        """The objective's state, for ``state_dict``."""
        return {name: value.detach().cpu() for name, value in self.state.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """The objective's state, from ``load_state_dict``."""
        self.state = checked_state(self.objective, state)

    def extra_repr(self) -> str:
        """The objective and the options that were set."""
        return ", ".join([repr(self.objective), *(f"{k}={v!r}" for k, v in self.options.items())])
