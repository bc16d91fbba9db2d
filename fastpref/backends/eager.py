"""Plain PyTorch: any device, any floating dtype. In float64 it is the oracle that every other backend is judged against.

Contract: see :class:`fastpref.backends.base.Backend`. Makes temporaries of the size of the chunk; it is written to be read, not to be fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LogitTransform, RowState


def apply_transform(x: Tensor, transform: LogitTransform) -> Tensor:
    """``z`` of :class:`LogitTransform`."""
    if transform.softcap is None:
        return x * transform.scale if transform.scale != 1.0 else x
    u = x * (transform.logit_scale / transform.softcap)
    return torch.tanh(u) * (transform.softcap / transform.temperature)


def transform_derivative(x: Tensor, transform: LogitTransform) -> Tensor | float:
    """``dz/dx``."""
    if transform.softcap is None:
        return transform.scale
    t = torch.tanh(x * (transform.logit_scale / transform.softcap))
    return (1.0 - t * t) * transform.scale


class EagerBackend:
    """The reference implementation of the row primitives."""

    name = "eager"

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Any floating dtype on any device."""
        return None if dtype.is_floating_point else f"logits of dtype {dtype} are not floating point"

    def describe(self) -> str:
        """See the protocol."""
        return "plain PyTorch"

    def row_stats(
        self, logits: Tensor, targets: Tensor, state: RowState, *, col0: int, transform: LogitTransform
    ) -> None:
        """See the protocol."""
        active = targets >= 0
        z = apply_transform(logits.to(state.m.dtype), transform)
        new_m = torch.maximum(state.m, z.amax(dim=-1))
        # A row of -inf so far keeps s = 0: subtract a finite stand-in so that -inf - -inf never happens.
        shift = torch.where(new_m == -torch.inf, torch.zeros_like(new_m), new_m)
        new_s = state.s * torch.exp(state.m - shift) + torch.exp(z - shift[:, None]).sum(dim=-1)
        here = active & (targets >= col0) & (targets < col0 + logits.shape[1])
        column = (targets - col0).clamp(0, logits.shape[1] - 1)
        new_zt = torch.where(here, z.gather(1, column[:, None]).squeeze(1), state.zt)
        state.m.copy_(torch.where(active, new_m, state.m))
        state.s.copy_(torch.where(active, new_s, state.s))
        state.zt.copy_(new_zt)

    def row_grad(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
    ) -> None:
        """See the protocol."""
        silent = (targets < 0) | ((onehot_coef == 0) & (softmax_coef == 0))
        x = logits.to(lse.dtype)
        d = torch.exp(apply_transform(x, transform) - lse[:, None]) * -softmax_coef[:, None]
        here = (targets >= col0) & (targets < col0 + logits.shape[1])
        column = (targets - col0).clamp(0, logits.shape[1] - 1)
        d.scatter_add_(1, column[:, None], torch.where(here, onehot_coef, torch.zeros_like(onehot_coef))[:, None])
        d = d * transform_derivative(x, transform)
        # masked_fill, not multiplication: an ignored row may hold NaN or inf.
        out.copy_(d.masked_fill_(silent[:, None], 0.0))
