"""Plain PyTorch: any device, any floating dtype. In float64 it is the oracle that every other backend is judged against.

Contract: see :class:`fastpref.backends.base.Backend`. ``row_stats`` and ``row_grad`` make temporaries of the size of the chunk; all of it is
written to be read, not to be fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Direction, KlState, LogitTransform, RowState


def apply_transform(x: Tensor, transform: LogitTransform) -> Tensor:
    """``z`` of :class:`LogitTransform`."""
    if transform.softcap is None:
        z = x * transform.scale if transform.scale != 1.0 else x
    else:
        u = x * (transform.logit_scale / transform.softcap)
        z = torch.tanh(u) * (transform.softcap / transform.temperature)
    return at_temperature(z, transform)


def at_temperature(z: Tensor, transform: LogitTransform) -> Tensor:
    """``z [R, C]`` or ``[R, 1]`` times the rows' own inverse temperatures, where they have any."""
    return z if transform.inv_temperature is None else z * transform.inv_temperature[:, None].to(z.dtype)


def transform_derivative(x: Tensor, transform: LogitTransform) -> Tensor | float:
    """``dz/dx``."""
    if transform.softcap is None:
        if transform.inv_temperature is None:
            return transform.scale
        return at_temperature(x.new_full((x.shape[0], 1), transform.scale), transform)
    t = torch.tanh(x * (transform.logit_scale / transform.softcap))
    return at_temperature((1.0 - t * t) * transform.scale, transform)


def relative_logits(x: Tensor, m: Tensor, transform: LogitTransform) -> Tensor:
    """``z - m`` row by row, in the dtype of ``m``. A row whose reference is still -inf has one of 0, so that -inf - -inf never happens."""
    return apply_transform(x.to(m.dtype), transform) - finite_reference(m)[:, None]


def finite_reference(m: Tensor) -> Tensor:
    """``m``, or 0 where nothing finite was seen."""
    return torch.where(m == -torch.inf, torch.zeros_like(m), m)


def write_gradient(
    x: Tensor, targets: Tensor, onehot_coef: Tensor, rest: Tensor, silent: Tensor, out: Tensor, *,
    col0: int, transform: LogitTransform,
) -> None:  # fmt: skip
    """``out = (onehot_coef * onehot + rest) * dz/dx``, zeros on silent rows; ``rest [R, C]`` is overwritten."""
    here = (targets >= col0) & (targets < col0 + x.shape[1])
    column = (targets - col0).clamp(0, x.shape[1] - 1)
    rest.scatter_add_(1, column[:, None], torch.where(here, onehot_coef, torch.zeros_like(onehot_coef))[:, None])
    # masked_fill, not multiplication: an ignored row may hold NaN or inf.
    out.copy_((rest * transform_derivative(x, transform)).masked_fill_(silent[:, None], 0.0))


SLICE_ELEMENTS = 1 << 20
"""Logits that the two primitives of a divergence take at a time: their temporaries are a few times 4 MiB whatever the chunk."""


def row_slices(logits: Tensor) -> Iterator[slice]:
    """Consecutive rows of :data:`SLICE_ELEMENTS` logits, or one row at a time."""
    rows, columns = logits.shape
    step = max(SLICE_ELEMENTS // max(columns, 1), 1)
    for start in range(0, rows if columns else 0, step):
        yield slice(start, min(start + step, rows))


def write_divergence_gradient(
    logits: Tensor, ref_logits: Tensor, targets: Tensor, lse: Tensor, ref_lse: Tensor, kl: Tensor, onehot_coef: Tensor,
    softmax_coef: Tensor, kl_coef: Tensor, out: Tensor, col0: int, transform: LogitTransform, direction: Direction,
) -> None:  # fmt: skip
    """``row_kl_grad`` with temporaries of the size of the chunk."""
    silent = (targets < 0) | ((onehot_coef == 0) & (softmax_coef == 0) & (kl_coef == 0))
    x = logits.to(lse.dtype)
    log_p = apply_transform(x, transform) - lse[:, None]
    log_q = apply_transform(ref_logits.to(lse.dtype), transform) - ref_lse[:, None]
    p = torch.exp(log_p)
    if direction == "forward":
        third = p - torch.exp(log_q)
    else:
        third = (p * (log_p - log_q - kl[:, None])).masked_fill_(p == 0, 0.0)
    third = (third * kl_coef[:, None]).masked_fill_((kl_coef == 0)[:, None], 0.0)
    rest = third - p * softmax_coef[:, None]
    write_gradient(x, targets, onehot_coef, rest, silent, out, col0=col0, transform=transform)


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

        def update(running: Tensor, value: Tensor, where: Tensor = active) -> None:
            running.copy_(torch.where(where, value, running))

        x = logits.to(state.m.dtype)
        z = apply_transform(x, transform)
        new_m = torch.maximum(state.m, z.amax(dim=-1))
        shift = finite_reference(new_m)
        d = z - shift[:, None]
        e, decay = torch.exp(d), torch.exp(state.m - shift)
        if state.s2 is not None:
            update(state.s2, state.s2 * decay * decay + (e * e).sum(dim=-1))
        if state.sd is not None:
            moved = torch.where(state.s == 0, torch.zeros_like(shift), state.m - shift)
            terms = e * d.masked_fill(d == -torch.inf, 0.0)
            update(state.sd, decay * (state.sd + state.s * moved) + terms.sum(dim=-1))
        if state.total is not None:
            update(state.total, state.total + z.sum(dim=-1))
        if state.top is not None and state.argmax is not None:
            height = x if transform.scale > 0 else -x
            at = height.argmax(dim=-1)  # the first of equals, on every device
            top = height.gather(1, at[:, None]).squeeze(1)
            higher = active & (top > state.top)
            update(state.argmax, at + col0, higher)
            update(state.top, top, higher)
        update(state.s, state.s * decay + e.sum(dim=-1))
        update(state.m, new_m)
        here = active & (targets >= col0) & (targets < col0 + logits.shape[1])
        column = (targets - col0).clamp(0, logits.shape[1] - 1)
        update(state.zt, z.gather(1, column[:, None]).squeeze(1), here)

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
        rest = torch.exp(apply_transform(x, transform) - lse[:, None]) * -softmax_coef[:, None]
        write_gradient(x, targets, onehot_coef, rest, silent, out, col0=col0, transform=transform)

    def row_kl_stats(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        state: KlState,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """See the protocol."""
        for block in row_slices(logits):
            rows = transform.rows(block)
            self._fold(logits[block], ref_logits[block], targets[block], state.rows(block), col0, rows, direction)

    def _fold(
        self, logits: Tensor, ref_logits: Tensor, targets: Tensor, state: KlState, col0: int,
        transform: LogitTransform, direction: Direction,
    ) -> None:  # fmt: skip
        a, b = state.pair(direction)
        a_m, a_s, b_m = a.m.clone(), a.s.clone(), b.m.clone()
        for chunk, side in ((logits, state.policy), (ref_logits, state.reference)):
            self.row_stats(chunk, targets, side, col0=col0, transform=transform)
        chunks = (ref_logits, logits) if direction == "forward" else (logits, ref_logits)
        z_a, z_b = (relative_logits(x, side.m, transform) for x, side in zip(chunks, (a, b), strict=True))
        terms = torch.exp(z_a) * (z_a - z_b)
        terms.masked_fill_(z_b == -torch.inf, torch.inf).masked_fill_(z_a == -torch.inf, 0.0)
        # The carried sum moves to the new reference values; +inf stays, also where its own weight has since become 0.
        moved = torch.where(a_s == 0, torch.zeros_like(a_s), (a_m - a.m) - (b_m - b.m))
        carried = torch.exp(a_m - finite_reference(a.m)) * (state.cross + a_s * moved)
        carried = torch.where(state.cross == torch.inf, state.cross, carried)
        state.cross.copy_(torch.where(targets >= 0, carried + terms.sum(dim=-1), state.cross))

    def row_kl_grad(
        self,
        logits: Tensor,
        ref_logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        ref_lse: Tensor,
        kl: Tensor,
        onehot_coef: Tensor,
        softmax_coef: Tensor,
        kl_coef: Tensor,
        out: Tensor,
        *,
        col0: int,
        transform: LogitTransform,
        direction: Direction,
    ) -> None:
        """See the protocol."""
        for block in row_slices(logits):
            write_divergence_gradient(
                logits[block], ref_logits[block], targets[block], lse[block], ref_lse[block], kl[block],
                onehot_coef[block], softmax_coef[block], kl_coef[block], out[block], col0, transform.rows(block),
                direction,
            )  # fmt: skip
