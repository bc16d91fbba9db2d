"""Inputs, float64 oracle and precision rule of the two row primitives, for every backend's tests. Nothing here uses a backend.

The rule: an error against the oracle may be twice (statistics) or three times (gradients) that of plain torch, plus a floor of a few
roundings. Plain torch works in fp32 on the same stored logits and rounds a gradient to their dtype, which is stricter than torch
working in a 16-bit dtype throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastpref.backends import Backend, LogitTransform, RowState

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
COLUMNS = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 4097, 33003]
PLAIN = LogitTransform()
TRANSFORMS = {
    "temperature": LogitTransform(temperature=0.7),
    "logit scale": LogitTransform(logit_scale=0.0625),
    "negative scale": LogitTransform(logit_scale=-1.5),
    "softcap": LogitTransform(softcap=30.0),
    "tight softcap": LogitTransform(softcap=2.0),
    "all": LogitTransform(logit_scale=1.5, softcap=20.0, temperature=1.3),
}
EPS = torch.finfo(torch.float32).eps
ROWS = 6  # of draw(): the last but one is ignored


def draw(
    cols: int, dtype: torch.dtype, *, rows: int = ROWS, scale: float = 2.5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``(logits [rows, cols], targets [rows])``: normal logits; one row is ignored and holds NaN; a target in each corner."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + cols)
    logits = (torch.randn(rows, cols, generator=generator) * scale).to(dtype)
    targets = torch.randint(0, cols, (rows,), generator=generator)
    if rows > 2:
        targets[0], targets[1], targets[-2] = 0, cols - 1, -1
        logits[-2] = torch.nan
    return logits, targets


def draw_coefficients(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``(onehot_coef, softmax_coef)``, different from each other and of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, generator=generator), torch.randn(rows, generator=generator)


def _row(cols: int, **values: float) -> Callable[[], Tensor]:
    def build() -> Tensor:
        row = torch.full((cols,), values["fill"])
        for place, value in values.items():
            if place != "fill":
                row[int(place.removeprefix("at"))] = value
        return row

    return build


def _normal(cols: int, *, add: float = 0.0, scale: float = 2.5, seed: int = 7) -> Tensor:
    return torch.randn(cols, generator=torch.Generator().manual_seed(seed)) * scale + add


def _masked_then_low() -> Tensor:
    return torch.cat([torch.full((3000,), -torch.inf), _normal(3001, add=-200.0)])


def _rising() -> Tensor:
    return torch.linspace(-3000.0, 3000.0, 9001)  # every block lies far above the one before


def _falling() -> Tensor:
    return _rising().flip(0)


def _late_peak() -> Tensor:
    row = _normal(5000)
    row[4999] = 55.0  # above what came before, but not by enough to move the reference
    return row


def _every_other_masked() -> Tensor:
    row = _normal(4099)
    row[::2] = -torch.inf
    return row


EXTREME: dict[str, tuple[Callable[[], Tensor], list[int]]] = {
    "large": (lambda: _normal(4099, add=1e4, scale=5.0), [0, 4098]),
    "large negative": (lambda: _normal(4099, add=-1e4, scale=5.0), [0, 4098]),
    "wide": (lambda: _normal(4099, scale=3000.0), [0, 4098]),
    "both ends": (_row(2500, fill=-1e4, at2400=1e4), [0, 2400]),
    "leading -inf, then low": (_masked_then_low, [3000, 6000]),
    "rising": (_rising, [0, 9000]),
    "falling": (_falling, [0, 9000]),
    "late peak": (_late_peak, [0, 4999]),
    "every other -inf": (_every_other_masked, [1, 4097]),
    "all but the first -inf": (_row(3001, fill=-torch.inf, at0=3.0), [0]),
    "all but the last -inf": (_row(3001, fill=-torch.inf, at3000=-700.0), [3000]),
    "masked target": (_row(2100, fill=0.5, at7=-torch.inf), [7]),
    "constant": (_row(50257, fill=-4.0), [1]),
    "all at the lowest finite value": (_row(1030, fill=-6e4), [3]),
}
"""One row each (fp32, finite in fp16), and the targets to try."""


def transformed(x: Tensor, t: LogitTransform) -> Tensor:
    """``z`` in the dtype of ``x``."""
    z = x * t.logit_scale
    if t.softcap is not None:
        z = torch.tanh(z / t.softcap) * t.softcap
    return z / t.temperature


def torch_stats(x: Tensor, targets: Tensor, t: LogitTransform) -> tuple[Tensor, Tensor]:
    """``(logps, lse)`` by plain torch in the dtype of ``x``; the oracle if that is float64. Ignored rows give 0."""
    z = transformed(x, t)
    ignored = targets < 0
    logps = z.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    return logps.masked_fill(ignored, 0.0), z.logsumexp(-1).masked_fill(ignored, 0.0)


def torch_grad(x: Tensor, targets: Tensor, lse: Tensor, onehot: Tensor, softmax: Tensor, t: LogitTransform) -> Tensor:
    """The gradient by autograd, in the dtype of ``x``, of ``sum_r onehot_r z[r, y_r] - softmax_r sum_j exp(z[r, j] - lse_r)``."""
    keep = (targets >= 0) & ~((onehot == 0) & (softmax == 0))
    leaf = x[keep].detach().requires_grad_()
    z = transformed(leaf, t)
    picked = z.gather(1, targets[keep][:, None]).squeeze(1)
    mass = torch.exp(z - lse[keep].to(x.dtype)[:, None]).sum(-1)
    (onehot[keep].to(x.dtype) * picked - softmax[keep].to(x.dtype) * mass).sum().backward()
    grad = torch.zeros_like(x)
    grad[keep] = leaf.grad
    return grad


def fold(
    backend: Backend, logits: Tensor, targets: Tensor, t: LogitTransform = PLAIN, cuts: tuple[int, ...] = ()
) -> RowState:
    """The state after all columns, taken in chunks that end at ``cuts``."""
    state = RowState.start(logits.shape[0], logits.device, torch.float32)
    edges = [0, *cuts, logits.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        backend.row_stats(logits[:, start:end], targets, state, col0=start, transform=t)
    return state


def assert_within(name: str, found: Tensor, oracle: Tensor, plain: Tensor, factor: float, floor: Tensor) -> None:
    """``|found - oracle| <= factor * max |plain - oracle| + floor`` where the oracle is finite; equal where it is not."""
    finite = oracle.isfinite()
    torch.testing.assert_close(found.double()[~finite], oracle[~finite], rtol=0, atol=0, equal_nan=True)
    error = (found.double() - oracle).abs()[finite]
    allowed = (
        factor * (plain.double() - oracle).abs()[finite].max().nan_to_num(0.0) if finite.any() else torch.zeros(())
    )
    excess = error - allowed - floor[finite]
    assert (excess <= 0).all(), f"{name}: error {error.max():.3g}, allowed {allowed:.3g} + {floor[finite].max():.3g}"


def assert_stats(
    logits: Tensor, targets: Tensor, t: LogitTransform, logps: Tensor, lse: Tensor, equal_terms: int = 0
) -> None:
    """The precision rule for statistics. ``equal_terms`` that are added in float32 one after the other may all be rounded the same way."""
    oracle = torch_stats(logits.double(), targets, t)
    plain = torch_stats(logits.float(), targets, t)
    # A transform's constants are rounded to fp32, and so is every z.
    rounded_z = 0.0 if t == PLAIN else EPS / 2 * oracle[1].nan_to_num(0.0).abs()
    for name, found, exact, usual in zip(("logps", "lse"), (logps, lse), oracle, plain, strict=True):
        assert_within(name, found, exact, usual, 2.0, (2 + equal_terms / 2) * EPS * (1 + exact.abs()) + rounded_z)


def assert_grad(
    logits: Tensor, targets: Tensor, lse: Tensor, onehot: Tensor, softmax: Tensor, t: LogitTransform, out: Tensor
) -> None:
    """The precision rule for the gradient, in absolute terms row by row and in relative terms entry by entry."""
    exact = torch_grad(logits.double(), targets, lse.double(), onehot.double(), softmax.double(), t)
    plain = torch_grad(logits.float(), targets, lse, onehot, softmax, t).to(logits.dtype)
    part = torch_grad(logits.double(), targets, lse.double(), torch.zeros_like(onehot).double(), softmax.double(), t)
    rounding = torch.finfo(logits.dtype).eps / 2
    smallest = torch.finfo(logits.dtype).tiny
    for r in range(logits.shape[0]):
        z = transformed(logits[r].double(), t)
        mass = (softmax[r] * (z - lse[r]).exp()).abs().nan_to_num(0.0)
        # The argument of exp is rounded, in units of its size, and so is z under a transform.
        size = ((z - lse[r]).abs() + (0.0 if t == PLAIN else z.abs())).nan_to_num(0.0, 0.0, 0.0)
        floor = EPS * (4 * exact[r].abs() + mass * size) + smallest
        assert_within(f"gradient of row {r}", out[r], exact[r], plain[r], 3.0, floor)
        big = exact[r].abs() > 64 * smallest
        if big.any():
            off = ((out[r].double() - exact[r]) / exact[r]).abs()[big]
            usual = ((plain[r].double() - exact[r]) / exact[r]).abs()[big].max()
            argument = (z - lse[r]).abs()[big] + (0.0 if t == PLAIN else z.abs()[big])
            # Of a target's entry the exponential is a part, which may be larger than the whole.
            share = (part[r] / exact[r]).abs()[big].clamp_min(1.0)
            allowed = 3 * usual + rounding + EPS * (2 + argument * share)
            assert (off <= allowed).all(), f"relative error {off.max():.3g} in row {r}"
