"""The whole of a loss from given logits in two calls of ``fastpref._C``: everything of the forward pass, and the gradient. See
:mod:`fastpref.backends.stage`; on the CPU and on a GPU they take the same arguments.

The heads are those that were compiled in; the module names them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from .base import LogitTransform
from .native import address
from .native_rows import NativeRows
from .stage import Staged


class NativeHead(NamedTuple):
    """A head of the module (see :class:`fastpref.backends.stage.StageHead`); ``place`` is where."""

    place: int
    kind: Literal["pair", "sequence", "token"]
    data: tuple[str, ...]
    hyper: tuple[str, ...]
    number: str | None


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


class NativeStage:
    """The heads that there are, and how a call is put; a backend says where it runs (:meth:`_run`, :meth:`backward`).

    Args:
        native: ``fastpref._C``.
        heads: its heads.
        rows: the backend's row primitives, of which the gradient is one.
    """

    makes_rewards = True
    refuses_rows = False

    def __init__(self, native: ModuleType, heads: Sequence[tuple[str, ...]], rows: NativeRows) -> None:
        self._native, self._rows = native, rows
        self._numbers = {getattr(torch, name): value for name, value in native.NUMBER_TYPES.items()}
        self._numbers[torch.bool] = self._numbers[torch.uint8]
        found: dict[str, NativeHead] = {}
        names: dict[str, str] = {}
        for place, (name, kind, data, hyper, number, variants) in enumerate(heads):
            found[name] = NativeHead(place, cast(Any, kind), _words(data), _words(hyper), number or None)
            names.update(dict.fromkeys(_words(variants), name))
        self.heads: Mapping[str, NativeHead] = found
        self.names: Mapping[str, str] = names

    def _run(self, logits: Tensor, targets: Tensor, arguments: dict[str, Any]) -> None:
        """The forward pass on the device of ``logits``; ``arguments`` are all but those that say where."""
        raise NotImplementedError

    def _of(self, values: Tensor | None) -> tuple[int, int]:
        """Address and type of some numbers."""
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
        """See the protocol."""
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
        rows = (
            self._rows.dtypes[logits.dtype],
            *logits.shape,
            logits.data_ptr(),
            logits.stride(0),
            address(reference),
            0 if reference is None else reference.stride(0),
        )
        arguments = dict(
            logits=rows,
            transform=(
                transform.logit_scale,
                transform.softcap,
                transform.temperature,
                address(transform.inv_temperature),
            ),
            targets=targets.data_ptr(),
            ignored=ignore_index,
            cu_seqlens=cu_seqlens.data_ptr(),
            sequences=sequences,
            reference_form=kind,
            reference=self._of(ref_logps),
            weights=self._of(weights),
            head=form.place,
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
        )
        self._run(logits, targets, arguments)
        return out
