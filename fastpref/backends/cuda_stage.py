"""The whole of a loss from given logits in two launches: everything of the forward pass, and the gradient. See :mod:`fastpref.backends.stage`.

The heads are those that the library was compiled with; it names them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .base import LogitTransform
from .cuda_rows import CudaRows
from .native import address
from .stage import Staged


class CudaHeadForm(NamedTuple):
    """A head of the library (see :class:`fastpref.backends.stage.StageHead`); ``index`` is its place there."""

    index: int
    kind: Literal["pair", "sequence", "token"]
    data: tuple[str, ...]
    hyper: tuple[str, ...]
    number: str | None


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


class CudaStage:
    """The heads that there are, and the launches.

    Args:
        native: ``fastpref._C`` with the library loaded.
        rows: the row primitives, of which the gradient is one; they say where a launch goes.
    """

    makes_rewards = True

    def __init__(self, native: ModuleType, rows: CudaRows) -> None:
        self._native, self._rows = native, rows
        self._numbers = {getattr(torch, name): value for name, value in native.CUDA_NUMBER_TYPES.items()}
        self._numbers[torch.bool] = self._numbers[torch.uint8]
        heads, names = {}, {}
        for index, (name, kind, data, hyper, number, variants) in enumerate(native.cuda_heads()):
            heads[name] = CudaHeadForm(index, kind, _words(data), _words(hyper), number or None)
            names.update(dict.fromkeys(_words(variants), name))
        self.heads: Mapping[str, CudaHeadForm] = heads
        self.names: Mapping[str, str] = names

    def _of(self, values: Tensor | None) -> tuple[int, int]:
        """Address and type of some numbers. Tensors of other dtypes are not contiguous data of this package; they would have been cast."""
        if values is None:
            return 0, 0
        return values.data_ptr(), self._numbers[values.dtype]

    def forward(
        self,
        head: str,
        hyper: Sequence[float],
        logits: Tensor,
        reference: Tensor | None,
        targets: Tensor,
        cu_seqlens: Tensor,
        *,
        ignore_index: int,
        transform: LogitTransform,
        data: Sequence[Tensor | None],
        ref_logps: Tensor | None,
        weights: Tensor | None,
        number: Tensor | None,
        divisors: Tensor | None,
        reward_scale: float | None,
    ) -> Staged:
        """See the protocol: one launch, and a memset of its counters before it."""
        form, device = self.heads[head], logits.device
        tokens, sequences = targets.shape[0], cu_seqlens.shape[0] - 1
        items = sequences // 2 if form.kind == "pair" else sequences

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        wide, pairs = torch.float64, 0 if reward_scale is None else items
        out = Staged(
            new(), new(items, dtype=wide), new(2, sequences, dtype=wide), new(tokens), new(tokens),
            new(0 if reference is None else tokens), new(tokens), new(2 * pairs, dtype=wide), new(pairs, dtype=wide),
        )  # fmt: skip
        if reference is not None:
            kind = 1
        elif ref_logps is None:
            kind = 0
        else:  # where every sequence is one row both forms are the same
            kind = 2 if ref_logps.shape[0] == tokens else 3
        data = [x if x is None or x.dtype in self._numbers else x.float() for x in data]
        absent = [name for name, values in zip(form.data, data, strict=True) if values is None]
        by_sequence = sum(2**i for i, x in enumerate(data) if x is not None and x.shape[0] != tokens)
        where = tuple(self._rows.where(logits).values())  # device, stream, multiprocessors
        rows = (
            self._rows.dtypes[logits.dtype],
            *logits.shape,
            logits.data_ptr(),
            logits.stride(0),
            address(reference),
            0 if reference is None else reference.stride(0),
        )
        scratch = new(self._native.cuda_preference_workspace(rows, sequences, where), dtype=torch.uint8)
        self._native.cuda_preference_forward(
            logits=rows,
            transform=(
                transform.logit_scale,
                transform.softcap,
                transform.temperature,
                address(transform.inv_temperature),
            ),
            where=where,
            targets=targets.data_ptr(),
            ignored=ignore_index,
            cu_seqlens=cu_seqlens.data_ptr(),
            sequences=sequences,
            reference_form=kind,
            reference=self._of(ref_logps),
            weights=self._of(weights),
            head=form.index,
            data=[self._of(values) for values in data],
            by_sequence=by_sequence,
            own=form.data.index("old_logps") if "old_logps" in absent else -1,
            hyper=list(hyper),
            number=self._of(number),
            divisors=self._of(divisors),
            reward_scale=reward_scale or 0.0,
            loss=out.loss.data_ptr(),
            losses=out.losses.data_ptr(),
            sums=out.sums.data_ptr(),
            rewards=out.rewards.data_ptr() if pairs else 0,
            margins=out.margins.data_ptr() if pairs else 0,
            lse=out.lse.data_ptr(),
            logps=out.logps.data_ptr(),
            ref_logps=0 if reference is None else out.ref_logps.data_ptr(),
            coef=out.coef.data_ptr(),
            workspace=scratch.data_ptr(),
        )
        return out

    def backward(
        self,
        logits: Tensor,
        targets: Tensor,
        lse: Tensor,
        coef: Tensor,
        upstream: Tensor,
        out: Tensor,
        transform: LogitTransform,
    ) -> None:
        """See the protocol: one launch."""
        self._rows.row_grad(logits, targets, lse, coef, coef, out, col0=0, transform=transform, gain=upstream)
