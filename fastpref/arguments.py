"""The arguments of a loss call, told apart and checked: objective, hyper-parameters, data, reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._checks import is_traced, may_synchronise, require_floating, require_same, require_shape, require_tensor
from .call import Call
from .errors import nearest
from .objectives import hyper_parameters, lookup, objective
from .objectives.base import Objective
from .objectives.batch import DATA, Datum
from .objectives.from_function import FunctionObjective, from_function
from .packing import wide_dtype

ObjectiveLike = Any
"""A name, a list of names (a mixture), an ``Objective``, or a function of sequence log-probs."""


def resolve_objective(given: ObjectiveLike, options: Mapping[str, Any]) -> tuple[Objective, dict[str, Any]]:
    """The objective, and the rest of a call's keyword arguments: the data."""
    if isinstance(given, (str, list, tuple)):
        names = [given] if isinstance(given, str) else list(given)
        known = list(dict.fromkeys(h for name in names for h in hyper_parameters(lookup(name))))
        if not isinstance(given, str):
            known.append("loss_weights")
        return objective(given, **{k: v for k, v in options.items() if k in known}), {
            k: v for k, v in options.items() if k not in known
        }
    if isinstance(given, Objective):
        if not isinstance(given, FunctionObjective):
            for key in options:
                if key in hyper_parameters(type(given)):
                    raise TypeError(
                        f"{key}: is a hyper-parameter that {given!r} already has; give it to fastpref.objective(...) instead"
                    )
        return given, dict(options)
    if callable(given):
        tensors = {k: v for k, v in options.items() if isinstance(v, Tensor)}
        return from_function(given, **{k: v for k, v in options.items() if k not in tensors}), tensors
    raise TypeError(
        f"objective: expected a name, a list of names, an Objective or a function, found {type(given).__name__}"
    )


def named_data(chosen: Objective, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The data that the objective asked for; a missing or superfluous name is an error."""
    if isinstance(chosen, FunctionObjective):
        return {name: require_tensor(name, value) for name, value in given.items()}
    required = [name for name in chosen.traits.data if name != "lengths"]
    wanted = [*required, *chosen.traits.optional_data]
    found = {name: value for name, value in given.items() if value is not None}
    for key in given:
        if key not in wanted:
            names = [*hyper_parameters(type(chosen)), *wanted]
            raise TypeError(
                f"{chosen.name}: unknown argument {key!r}{nearest(key, names)} (takes: {', '.join(names) or 'nothing more'})"
            )
    for key in required:
        if key not in found:
            raise TypeError(f"{chosen.name}: missing argument {key!r}")
    return found


def check_reference_presence(chosen: Objective, given: bool) -> None:
    """The objective's trait against what the call gave."""
    if given and chosen.traits.reference == "none":
        raise ValueError(f"{chosen.name}: takes no reference, found one")
    if not given and chosen.traits.reference == "required":
        raise ValueError(f"{chosen.name}: needs a reference, found None")


def check_reference_form(chosen: Objective, reference: Tensor, call: Call) -> None:
    """``[K]`` or ``[T]``; ``[T]`` where token log-probs are what enters, or are weighted."""
    sequences, total = call.cu_seqlens.shape[0] - 1, call.active.shape[0]
    require_floating("reference", reference)
    require_same("reference", reference, "the rows", call.active, dtype=False)
    if reference.dim() != 1 or reference.shape[0] not in (sequences, total):
        raise ValueError(
            f"reference: expected sequence log-probs [{sequences}] or token log-probs [{total}], found {list(reference.shape)}"
        )
    if reference.shape[0] != total:
        if chosen.traits.level == "token":
            raise ValueError(
                f"reference: {chosen.name} works on tokens; expected token log-probs [{total}], found sequence sums [{sequences}]"
            )
        if call.token_weights is not None:
            raise ValueError(
                f"reference: token weights apply to it too; expected token log-probs [{total}], found sequence sums [{sequences}]"
            )
    refuse_nan_reference(reference, "sequence" if reference.shape[0] != total else "row")


def refuse_nan_reference(reference: Tensor, what: str = "sequence") -> None:
    """NaN in a precomputed reference is an error that names the sequence or the row, where values may be looked at."""
    if is_traced(reference) or not may_synchronise(reference.device):
        return
    bad = reference.isnan()
    if bool(bad.any()):
        raise ValueError(f"reference: the log-probability of {what} {int(bad.nonzero()[0])} is NaN")


def checked_data(
    given: Mapping[str, Tensor], device_of: Tensor, sequences: int, active: Tensor | None
) -> dict[str, Tensor]:
    """The data of a call in the shapes, dtypes and on the device that objectives count on.

    Floating data become :func:`fastpref.packing.wide_dtype`; ``[T]`` data become 0 on ignored rows, whatever they hold there.

    Args:
        given: by name; names that are not in :data:`~fastpref.objectives.batch.DATA` (of a function) pass through.
        device_of: a tensor on the device where all must be.
        sequences: K.
        active: ``[T]`` bool, or ``None`` where only sequence log-probs exist.
    """
    sizes = {"K": sequences, "N": sequences // 2, "T": None if active is None else active.shape[0]}
    checked = {}
    for name, tensor in given.items():
        if name not in DATA:
            checked[name] = tensor
            continue
        datum = DATA[name]
        if datum.shapes == ("",) and isinstance(tensor, (int, float)):
            tensor = torch.tensor(float(tensor), device=device_of.device)
        require_tensor(name, tensor)
        require_same(name, tensor, "the log-probs", device_of, dtype=False)
        value = _of_kind(name, tensor if datum.learnt else tensor.detach(), datum.kind)
        allowed = [s for s in datum.shapes if s != "T" or active is not None]
        if "T" in datum.shapes and not allowed:
            raise ValueError(f"{name}: goes with token log-probs; give policy [T] with cu_seqlens")
        if not any(_fits(tensor, shape, sizes) for shape in allowed):
            wanted = " or ".join("a scalar" if s == "" else f"[{sizes.get(s, s)}]" for s in allowed)
            raise ValueError(f"{name}: expected shape {wanted}, found {list(tensor.shape)}")
        if value.dtype.is_floating_point:
            value = value.to(wide_dtype(value.device))
            if active is not None and "T" in datum.shapes and value.shape == active.shape:
                value = value.masked_fill(~active, 0.0)
            if not is_traced(value) and may_synchronise(value.device) and not bool(value.isfinite().all()):
                where = int((~value.detach().isfinite()).reshape(-1).nonzero()[0])
                raise ValueError(
                    f"{name}: expected finite numbers, found {value.reshape(-1)[where].item()} at position {where}"
                )
        _check_range(name, value, datum)
        checked[name] = value
    return checked


def _check_range(name: str, value: Tensor, datum: Datum) -> None:
    """Values outside of what makes sense, where they may be looked at."""
    if (datum.least is None and datum.most is None) or is_traced(value) or not may_synchronise(value.device):
        return
    low, high = datum.least, datum.most
    outside = torch.zeros_like(value, dtype=torch.bool)
    outside |= (value < low) if low is not None else outside
    outside |= (value > high) if high is not None else outside
    if bool(outside.any()):
        wanted = f"{low} or above" if high is None else f"in [{low}, {high}]"
        found = value.reshape(-1)[int(outside.reshape(-1).nonzero()[0])].item()
        raise ValueError(f"{name}: expected numbers {wanted}, found {found}")


def checked_lengths(lengths: Tensor, policy: Tensor) -> Tensor:
    """``[K]`` integers, 1 or above."""
    require_shape("lengths", require_tensor("lengths", lengths), tuple(policy.shape))
    require_same("lengths", lengths, "policy", policy, dtype=False)
    if lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected an integer dtype, found {lengths.dtype}")
    if not is_traced(lengths) and may_synchronise(lengths.device) and bool((lengths < 1).any()):
        raise ValueError(f"lengths: expected numbers 1 or above, found {int(lengths.min())}")
    return lengths


def refuse_nan_policy(policy: Tensor, active: Tensor | None = None) -> None:
    """NaN log-probs are an error that names where, where values may be looked at."""
    if is_traced(policy) or not may_synchronise(policy.device):
        return
    bad = policy.detach().isnan() if active is None else policy.detach().isnan() & active
    if bool(bad.any()):
        what = "sequence" if active is None else "row"
        raise ValueError(f"policy: the log-probability of {what} {int(bad.nonzero()[0])} is NaN")


def _of_kind(name: str, tensor: Tensor, kind: str) -> Tensor:
    if kind == "bool":
        if tensor.dtype != torch.bool:
            raise TypeError(f"{name}: expected dtype torch.bool, found {tensor.dtype}")
        return tensor
    if kind == "int":
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise TypeError(f"{name}: expected an integer dtype, found {tensor.dtype}")
        return tensor.long()
    if tensor.dtype.is_complex:
        raise TypeError(f"{name}: expected real numbers, found {tensor.dtype}")
    return tensor if tensor.dtype.is_floating_point else tensor.to(wide_dtype(tensor.device))


def _fits(tensor: Tensor, shape: str, sizes: Mapping[str, int | None]) -> bool:
    if shape == "":
        return tensor.dim() == 0
    if shape == "M":
        return tensor.dim() == 1 and tensor.shape[0] > 0
    return tuple(tensor.shape) == (sizes[shape],)


def checked_state(chosen: Objective, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The objective's state before a call: what was given, or the initial one."""
    initial = chosen.initial_state()
    if state is None:
        return initial
    if set(state) != set(initial):
        raise ValueError(f"state: expected {sorted(initial) or 'nothing'} for {chosen.name}, found {sorted(state)}")
    for name, value in state.items():
        require_tensor(f"state[{name!r}]", value)
        if value.shape != initial[name].shape:
            raise ValueError(f"state[{name!r}]: expected shape {list(initial[name].shape)}, found {list(value.shape)}")
        if not is_traced(value) and may_synchronise(value.device) and not bool(value.isfinite().all()):
            raise ValueError(f"state[{name!r}]: expected finite numbers, found {value.tolist()}")
    return dict(state)
