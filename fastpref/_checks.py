"""Validation at the public edge. What would synchronise a GPU is checked on the CPU always, on a GPU only under ``FASTPREF_DEBUG=1``."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .backends.base import IGNORED

NO_SECOND_DERIVATIVES = "fastpref has no second derivatives: differentiate with create_graph=False"


def may_synchronise(device: torch.device) -> bool:
    """Whether values (not only shapes) may be looked at."""
    if device.type == "meta":  # there are none
        return False
    return device.type == "cpu" or os.environ.get("FASTPREF_DEBUG", "0") not in ("", "0")


def is_traced(*tensors: Tensor) -> bool:
    """Whether these tensors have no values to look at: fake tensors, or a graph being captured by ``torch.compile``."""
    return torch.compiler.is_compiling() or any(isinstance(t, torch._subclasses.FakeTensor) for t in tensors)


def require_tensor(name: str, value: object) -> Tensor:
    """``value`` itself, if it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, found {type(value).__name__}")
    return value


def require_floating(name: str, tensor: Tensor) -> None:
    """A floating-point dtype."""
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating-point dtype, found {tensor.dtype}")


def require_shape(name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """The dimensions of ``shape``; a string stands for any size and names it in the message."""
    if tensor.dim() != len(shape) or any(
        not isinstance(s, str) and s != n for s, n in zip(shape, tensor.shape, strict=True)
    ):
        wanted = ", ".join(str(s) for s in shape)  # only here: torch.compile cannot print a size that it does not know
        raise ValueError(f"{name}: expected shape [{wanted}], found {list(tensor.shape)}")


def require_same(name: str, tensor: Tensor, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """The device (and dtype) of another argument."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected on {other.device} like {other_name}, found on {tensor.device}")
    if dtype and tensor.dtype != other.dtype:
        raise TypeError(f"{name}: expected dtype {other.dtype} like {other_name}, found {tensor.dtype}")


def row_contiguous(tensor: Tensor) -> Tensor:
    """``tensor`` with a contiguous last dimension and no broadcast rows (a copy only where it is not so already)."""
    if tensor.stride(-1) == 1 and (tensor.shape[0] <= 1 or tensor.stride(0) >= tensor.shape[-1]):
        return tensor
    return tensor.contiguous()


def require_ignore_index(value: object) -> None:
    """An integer."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"ignore_index: expected an int, found {value!r} ({type(value).__name__})")


def normalise_targets(targets: Tensor, vocab: int, ignore_index: int) -> Tensor:
    """int64 targets with ``ignore_index`` mapped to :data:`~fastpref.backends.base.IGNORED`.

    An id outside ``[0, vocab)`` is an error that names the row where values may be looked at; elsewhere it becomes ``vocab``, which no
    column matches: the row yields NaN.
    """
    require_ignore_index(ignore_index)
    if targets.dtype != torch.int64:
        raise TypeError(f"targets: expected dtype torch.int64, found {targets.dtype}")
    ignored = targets == ignore_index
    outside = ((targets < 0) | (targets >= vocab)) & ~ignored
    if not is_traced(targets) and may_synchronise(targets.device) and bool(outside.any()):
        raise target_outside(targets, int(outside.nonzero()[0]), vocab, ignore_index)
    return targets.masked_fill(outside, vocab).masked_fill(ignored, IGNORED).contiguous()


def target_outside(targets: Tensor, row: int, vocab: int, ignore_index: int) -> ValueError:
    """The error of a target that names no column."""
    return ValueError(
        f"targets: expected ids in [0, {vocab}) or ignore_index={ignore_index}, found {int(targets[row])} at row {row}"
    )


def inverse_temperatures(temperature: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
    """``1 / temperature [R]`` in float64 where the device has it, 1 on ignored rows; ``ids [R]`` are the normalised ``targets``.

    A temperature that is not positive and finite is an error that names its row where values may be looked at; elsewhere the row yields NaN.
    """
    require_floating("temperature", temperature)
    require_shape("temperature", temperature, tuple(targets.shape))
    require_same("temperature", temperature, "targets", targets, dtype=False)
    if temperature.requires_grad:
        raise ValueError("temperature: gets no gradient; expected a tensor that does not require grad (detach it)")
    wide = torch.float32 if temperature.device.type == "mps" else torch.float64
    values = temperature.reshape(-1).to(wide)
    wrong = ~((values > 0) & (values < torch.inf)) & (ids != IGNORED)
    if not is_traced(values) and may_synchronise(values.device) and bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"temperature: expected finite numbers above 0, found {values[row].item()} at row {row}")
    return values.reciprocal().masked_fill(wrong, torch.nan).masked_fill(ids == IGNORED, 1.0)


def check_cu_seqlens(cu_seqlens: Tensor, rows: int) -> None:
    """int32, ``[K+1]``, from 0 to ``rows``, every sequence at least one row."""
    require_tensor("cu_seqlens", cu_seqlens)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens: expected dtype torch.int32, found {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens: expected shape [K+1] with K >= 1, found {list(cu_seqlens.shape)}")
    if is_traced(cu_seqlens) or not may_synchronise(cu_seqlens.device):
        return
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != rows:
        raise ValueError(f"cu_seqlens: expected to start at 0 and end at T={rows}, found {ends[0]} and {ends[-1]}")
    for k, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        if end <= start:
            raise ValueError(f"cu_seqlens: sequence {k} is empty (rows {start} to {end}); every sequence needs a row")


def refuse_forward_mode(*tensors: object) -> None:
    """The operators have reverse-mode formulas only; without this check a forward-mode tangent would be lost silently."""
    if forward_ad._current_level < 0:
        return
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError("forward-mode differentiation is not supported; use reverse mode (backward)")


def refuse_nan(logps: Tensor, targets: Tensor, source: str, rows: Tensor | None = None) -> None:
    """A NaN log-probability is an error that names its row, where values may be looked at; ``rows`` are the caller's row numbers."""
    if is_traced(logps) or not may_synchronise(logps.device):
        return
    bad = logps.isnan()
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise nan_logp(source, at if rows is None else int(rows[at]), int(targets[at]))


def nan_logp(source: str, row: int, target: int) -> ValueError:
    """The error of a NaN log-probability."""
    return ValueError(
        f"{source}: the log-probability of row {row} (target {target}) is NaN; "
        f"the row's {source} hold NaN or +inf, or its logits overflowed"
    )
