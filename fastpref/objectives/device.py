"""The device form of a loss, derived from its one definition: loss and derivatives of one item as a list of scalar operations.

An objective whose loss is elementwise (in pairs, sequences or tokens) is traced once: its Python definition and autograd's own derivative
of it, as the operations that torch would run. Nothing is written twice, so nothing can drift: a formula changes in one place, and
:mod:`fastpref.objectives.emit` prints the new operations as C++ (host and CUDA) and as Triton. Real hyper-parameters stay arguments of the
derived code; text and flags are fixed when it is derived.

A loss has no device form where one item's loss is not a function of that item's numbers alone (a sort, a sum over a prompt's responses, a
mean over a sequence's tokens): :func:`derive` then says why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .base import Objective, PairwiseObjective, SequenceObjective, TokenObjective
from .batch import CALL_NUMBERS, DATA, SequenceBatch, TokenBatch

Kind = Literal["pair", "sequence", "token"]
Operand = str | float
"""The name of an input, a hyper-parameter or an earlier step; or a number."""


@dataclass(frozen=True)
class Step:
    """``name = operation(arguments)``; the operations are those of :data:`OPERATIONS`."""

    name: str
    operation: str
    arguments: tuple[Operand, ...]


@dataclass(frozen=True)
class DeviceForm:
    """One item's loss and derivatives.

    Attributes:
        name: of the objective and what was fixed of it, as an identifier.
        kind: what an item is.
        inputs: names of the item's numbers: of a pair ``policy_w, policy_l, reference_w, ...``; ``w`` chosen, ``l`` rejected.
        hyper: names of the real hyper-parameters, then of the numbers of the whole call (see
            :data:`~fastpref.objectives.batch.CALL_NUMBERS`) that it reads; the same for all items.
        steps: in order.
        outputs: the loss, then its derivative with respect to each log-prob of the policy.
        variants: identifiers of the :func:`variants` that have this form, ``name`` first.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    hyper: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Operand, ...]
    variants: tuple[str, ...] = ()

    @property
    def data(self) -> tuple[str, ...]:
        """Names of the inputs that are data, in order; of a pair those of the chosen sequence stand for both."""
        suffix = "_w" if self.kind == "pair" else ""
        found = (n.removesuffix(suffix) for n in self.inputs if n.endswith(suffix))
        return tuple(n for n in found if n not in ("policy", "reference", "length"))

    @property
    def number(self) -> str | None:
        """The number of the whole call that it reads, which is the last of ``hyper``."""
        return self.hyper[-1] if self.hyper and self.hyper[-1] in CALL_NUMBERS else None


class NoDeviceForm(ValueError):
    """The loss of one item is not a function of that item's numbers alone; the message says what else it reads."""


OPERATIONS = (
    "neg", "exp", "log", "log1p", "expm1", "sqrt", "abs", "sign", "sigmoid", "log_sigmoid", "add", "sub", "mul", "div", "min", "max",
    "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "where",
)  # fmt: skip
"""What a device form is made of. Comparisons give truth values, which ``and``, ``or``, ``not`` and ``where`` take."""

_ITEMS = 3
"""Items in the traced example; any number above 1 does."""

_UNARY = {
    "neg": "neg", "exp": "exp", "log": "log", "log1p": "log1p", "expm1": "expm1", "sqrt": "sqrt", "abs": "abs", "sign": "sign",
    "sgn": "sign", "sigmoid": "sigmoid", "logical_not": "not", "bitwise_not": "not",
}  # fmt: skip
_BINARY = {
    "mul": "mul", "div": "div", "minimum": "min", "maximum": "max", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq",
    "ne": "ne", "logical_and": "and", "logical_and_": "and", "logical_or": "or", "bitwise_and": "and", "bitwise_or": "or",
}  # fmt: skip
_SAME = ("detach", "clone", "alias", "view", "expand", "_to_copy", "contiguous", "unsqueeze", "squeeze")


def real_hyper_parameters(objective: Objective) -> tuple[str, ...]:
    """The hyper-parameters that stay arguments of the derived code."""
    values = {f.name: getattr(objective, f.name) for f in fields(objective)}  # type: ignore[arg-type]  # a dataclass
    return tuple(n for n, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool))


def derive(objective: Objective, name: str | None = None) -> DeviceForm:
    """The device form of an objective.

    Args:
        objective: the values of its real hyper-parameters do not matter; those of its text and flags do.
        name: an identifier; default the objective's name.

    Raises:
        NoDeviceForm: it has none.
    """
    kind = _kind(objective)
    hyper = real_hyper_parameters(objective)
    inputs, evaluate = item_losses(objective)
    wrt = [i for i, n in enumerate(inputs) if n == "policy" or n.startswith("policy_")]

    def joint(*given: Tensor) -> tuple[Tensor, ...]:
        bound = copy.copy(objective)
        shared = dict(zip((*hyper, *CALL_NUMBERS), given[len(inputs) :], strict=True))
        for option in hyper:
            object.__setattr__(bound, option, shared[option])
        numbers = {name: shared[name] for name in CALL_NUMBERS}
        values = [v.detach() for v in given[: len(inputs)]]
        leaves = [values[i].requires_grad_(True) for i in wrt]
        loss = evaluate(bound, dict(zip(inputs, values, strict=True)), numbers)
        if loss.shape != values[0].shape:
            raise NoDeviceForm(
                f"{objective.name}: one loss per {kind} is what can be derived, found {list(loss.shape)}"
            )
        grads = torch.autograd.grad(loss, leaves, torch.ones_like(loss), allow_unused=True)
        return loss, *(torch.zeros_like(loss) if g is None else g for g in grads)

    example = [torch.full((_ITEMS,), -1.5 - 0.1 * i, dtype=torch.float64) for i in range(len(inputs))]
    example += [torch.tensor(float(getattr(objective, h)), dtype=torch.float64) for h in hyper]
    example += [torch.tensor(2.0, dtype=torch.float64) for _ in CALL_NUMBERS]
    try:
        graph = make_fx(joint)(*example).graph
    except NoDeviceForm:
        raise
    except Exception as error:  # whatever the definition does with the example that one item's numbers cannot answer
        raise NoDeviceForm(f"{objective.name}: cannot be traced item by item: {error}") from error
    graph.eliminate_dead_code()  # the example's own row numbers, unless the loss reads them
    builder = _Builder([*inputs, *hyper, *CALL_NUMBERS])
    outputs = builder.read(graph, objective.name)
    steps = builder.used_by(outputs)
    read = {a for step in steps for a in step.arguments} | set(outputs)
    used = tuple(h for h in (*hyper, *CALL_NUMBERS) if h in read)
    return DeviceForm(name or objective.name, kind, tuple(inputs), used, steps, tuple(outputs))


DIVERGENCE_FORMS = ("sigmoid", "hinge", "ipo", "exo_pair", "robust", "sigmoid_norm", "discopop")
"""Losses whose forms under the other f-divergences are kept ready: TRL's."""


def variants(entries: Mapping[str, Any]) -> dict[str, Objective]:
    """The objectives whose device forms are kept ready: of every registered class its defaults, and each other value of one text, flag or
    optional option at a time, except WPO's ``use_weighting``, which multiplies every output by the pair's weight; by identifier, ``name``, ``name_option`` or ``name_option_value``, with ``_kl`` where a KL term is on that is off by default.

    Args:
        entries: :data:`fastpref.objectives.OBJECTIVES`.
    """
    found: dict[str, Objective] = {}
    for entry in entries.values():
        cls = entry.cls
        if cls.name in found:
            continue
        found[cls.name] = cls()
        # A reference that is needed only where the weight of a KL term is above 0 makes another form.
        with_kl = {"beta": 0.1} if getattr(found[cls.name], "beta", None) == 0.0 else None
        if with_kl:
            found[f"{cls.name}_kl"] = cls(**with_kl)
        for fixed in ({}, with_kl):
            if fixed is None:
                continue
            for option, candidates in _choices(cls):
                for value in candidates:
                    label = f"{option}_{value}" if isinstance(value, str) else option
                    with suppress(ValueError):  # a value or a combination that the objective refuses
                        found.setdefault(f"{cls.name}{'_kl' if fixed else ''}_{label}", cls(**{**fixed, option: value}))
    return found


@cache  # a call's head is looked for in every call, and hints are parsed
def _choices(cls: type[Objective]) -> tuple[tuple[str, list[Any]], ...]:
    """The other values of each option that is not a number; of an optional number some, of which the first that is accepted counts."""
    return tuple(_found_choices(cls))


def _found_choices(cls: type[Objective]) -> Iterator[tuple[str, list[Any]]]:
    hints = get_type_hints(cls)
    for f in fields(cls):  # type: ignore[arg-type]  # a dataclass
        kinds = get_args(hints[f.name]) if get_origin(hints[f.name]) is UnionType else (hints[f.name],)
        if f.default is None and (float in kinds or int in kinds):
            yield f.name, [0.5, 3.0]
        elif f.name == "use_weighting" or (f.name == "f_divergence_type" and cls.name not in DIVERGENCE_FORMS):
            continue
        elif hints[f.name] is bool:
            yield f.name, [not f.default]
        elif get_origin(hints[f.name]) is Literal:
            yield f.name, [v for v in get_args(hints[f.name]) if v != f.default]


def device_forms(entries: Mapping[str, Any]) -> tuple[list[DeviceForm], dict[str, str]]:
    """The device forms of :func:`variants`, equal ones once, and the reason for each objective that has none."""
    forms: dict[Any, list[DeviceForm]] = {}
    reasons: dict[str, str] = {}
    for name, objective in variants(entries).items():
        try:
            form = derive(objective, name)
        except NoDeviceForm as reason:
            reasons[name] = str(reason)
            continue
        forms.setdefault((form.kind, form.inputs, form.hyper, form.steps, form.outputs), []).append(form)
    return [replace(same[0], variants=tuple(f.name for f in same)) for same in forms.values()], reasons


_AGGREGATION = ("loss_aggregation", "max_completion_length")
"""Options that are a matter of :meth:`~fastpref.objectives.base.TokenObjective.divisors`: the loss of a token does not depend on them."""


@cache
def _defaults(cls: type[Objective]) -> dict[str, Any]:
    return {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]  # a dataclass


def identify(objective: Objective, heads: Mapping[str, str]) -> str | None:
    """The name of the head that computes an objective, or ``None``.

    Args:
        objective: of this package; others have no head, whatever they are called.
        heads: name of a head by identifier of each of :func:`variants` that it computes.
    """
    cls = type(objective)
    if not cls.__module__.startswith(__package__) or not hasattr(cls, "name"):  # that of a function is the instance's
        return None
    label, base = cls.name, _defaults(cls)
    if base.get("beta") == 0.0 and getattr(objective, "beta", 0.0) > 0.0:
        label = f"{label}_kl"
    plain = heads.get(label)
    known = {name: [None, *values] for name, values in _choices(cls)}
    found: set[str | None] = set()
    for option, default in base.items():
        value = getattr(objective, option)
        real = option not in known and isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == default or real or option in _AGGREGATION:
            continue
        head = heads.get(f"{label}_{option}_{value}" if isinstance(value, str) else f"{label}_{option}")
        if head != plain:  # an option that makes no other form does not enter the loss of an item
            found.add(head)
    if not found:
        return plain
    # Two options that each make another form have no head together. At 1 the alpha divergence is another formula, and near it a
    # float32 coefficient loses the digits of its difference from 1.
    alpha = getattr(objective, "f_divergence_type", "") == "alpha_divergence"
    near = alpha and abs(getattr(objective, "f_alpha_divergence_coef", 0.5) - 1.0) < 0.01
    return None if len(found) > 1 or near else found.pop()


def _kind(objective: Objective) -> Kind:
    if isinstance(objective, PairwiseObjective):
        return "pair"
    if isinstance(objective, SequenceObjective):
        return "sequence"
    if isinstance(objective, TokenObjective):
        return "token"
    raise NoDeviceForm(f"{objective.name}: couples by {objective.traits.coupling}")


Evaluate = Callable[[Any, Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


def item_losses(objective: Objective, items: int = _ITEMS) -> tuple[list[str], Evaluate]:
    """The names of one item's numbers, and the definition as a function of ``items`` of each: ``(objective, numbers, call numbers) -> losses``.

    Raises:
        NoDeviceForm: the loss looks at more than one item.
    """
    kind = _kind(objective)
    traits = objective.traits
    every = [d for d in (*traits.data, *traits.optional_data) if d != "lengths"]
    data = [d for d in every if set(DATA[d].shapes) & {"K", "N", "T"}]  # the others are of the whole call
    aligned = ["aligned"] if "log_sum_sq_probs" in traits.vocabulary else []
    if any(v != "log_sum_sq_probs" for v in traits.vocabulary):
        raise NoDeviceForm(f"{objective.name}: its derivative has a term for every vocabulary entry")
    if traits.coupling == "batch" or traits.stateful:
        raise NoDeviceForm(f"{objective.name}: looks at the whole batch")
    names = ["policy", "reference", "length", *aligned, *data]

    def side(given: Mapping[str, Tensor], numbers: Mapping[str, Tensor], suffix: str) -> SequenceBatch:
        found = {d: _typed(d, given[f"{d}{suffix}"]) for d in data}
        return SequenceBatch(
            given[f"policy{suffix}"],
            None if traits.reference == "none" else given[f"reference{suffix}"],
            given[f"length{suffix}"],
            found,
            aligned=given[f"aligned{suffix}"] if aligned else None,
            numbers=numbers,
        )

    if kind == "pair":
        both = [f"{n}_{s}" for n in names for s in ("w", "l")]
        return both, lambda o, given, numbers: o.pair_losses(side(given, numbers, "_w"), side(given, numbers, "_l"))
    if kind == "sequence":
        return names, lambda o, given, numbers: o.losses(side(given, numbers, ""))

    tokens = ["policy", "reference", *data]

    # Made here, outside of the trace: of tokens by themselves nothing of this is read.
    rows_of = {
        "active": torch.ones(items, dtype=torch.bool),
        "sequence": torch.arange(items),
        "cu_seqlens": torch.arange(items + 1),
    }
    ones = torch.ones(items)

    def per_token(o: Any, given: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> Tensor:
        rows = TokenBatch(given["policy"], None if traits.reference == "none" else given["reference"], **rows_of)
        found = {d: _typed(d, given[d]) for d in data}
        batch = SequenceBatch(rows.policy, rows.reference, ones, found, tokens=rows, numbers=numbers)
        losses: Tensor = o.token_losses(batch, rows)
        return losses

    return tokens, per_token


def _typed(name: str, value: Tensor) -> Tensor:
    """Numbers as the definition gets them: truth values and integers come to the device as numbers."""
    return value > 0.5 if name in DATA and DATA[name].kind == "bool" else value


class _Builder:
    """Reads a traced graph into steps: equal steps once, steps of numbers folded, signs and units absorbed."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = inputs
        self.steps: dict[str, Step] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def emit(self, operation: str, *arguments: Operand) -> Operand:
        """The result of an operation, from an earlier equal step where there is one."""
        simple = self._simplified(operation, arguments)
        if simple is not None:
            return simple
        key = (operation, *arguments)
        if key not in self._known:
            name = f"v{len(self.steps)}"
            self.steps[name] = Step(name, operation, arguments)
            self._known[key] = name
        return self._known[key]

    def _simplified(self, operation: str, arguments: tuple[Operand, ...]) -> Operand | None:
        a, b = (*arguments, None, None)[:2]
        if operation == "neg":
            if isinstance(a, float):
                return -a
            inner = self.steps.get(a) if isinstance(a, str) else None
            return inner.arguments[0] if inner is not None and inner.operation == "neg" else None
        if operation == "mul":
            for one, other in ((a, b), (b, a)):
                if one == 1.0 and other is not None:
                    return other
                if one == -1.0 and other is not None:
                    return self.emit("neg", other)
        if operation in ("add", "sub") and b == 0.0:
            return a
        if operation == "add" and a == 0.0:
            return b
        if operation == "div" and b == 1.0:
            return a
        if isinstance(a, float) and isinstance(b, float) and operation in ("add", "sub", "mul", "div"):
            return {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b if b else None}[operation]
        if operation == "where" and arguments[1] == arguments[2]:
            return arguments[1]
        if operation == "where" and isinstance(a, float):
            return arguments[1] if a else arguments[2]
        if operation in ("and", "or") and isinstance(b, float):
            return (a if b else 0.0) if operation == "and" else (1.0 if b else a)
        if operation == "not" and isinstance(a, float):
            return 0.0 if a else 1.0
        return None

    def used_by(self, outputs: Sequence[Operand]) -> tuple[Step, ...]:
        """The steps that the outputs need, in order."""
        needed = {o for o in outputs if isinstance(o, str)}
        for step in reversed(self.steps.values()):
            if step.name in needed:
                needed.update(a for a in step.arguments if isinstance(a, str))
        return tuple(step for step in self.steps.values() if step.name in needed)

    def read(self, graph: torch.fx.Graph, label: str) -> list[Operand]:
        """The graph's outputs."""
        values: dict[torch.fx.Node, Any] = {}
        names = iter(self.inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = next(names)
            elif node.op == "output":
                return [values[n] for n in node.args[0]]
            elif node.op == "get_attr":
                constant = getattr(graph.owning_module, str(node.target), None) if graph.owning_module else None
                if not isinstance(constant, Tensor) or not bool((constant == constant.reshape(-1)[0]).all()):
                    raise NoDeviceForm(f"{label}: reads the rows of a sequence together")
                values[node] = float(constant.reshape(-1)[0])
            elif node.op == "call_function":
                arguments = [self._operand(values, a) for a in node.args]
                values[node] = self._call(node, arguments, label)
        raise NoDeviceForm(f"{label}: the traced graph has no output")

    def _operand(self, values: Mapping[torch.fx.Node, Any], argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return values[argument]
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return float(argument)
        return argument

    def _call(self, node: torch.fx.Node, arguments: list[Any], label: str) -> Any:
        target: Any = node.target
        operation = getattr(target, "__name__", str(target)).split(".")[0]
        if operation.endswith("_") and not operation.startswith("_"):
            operation = operation[:-1]  # in place: the value is the same
        a, b, c = (*arguments, None, None, None)[:3]
        if operation in _SAME:
            return a
        if operation in _UNARY:
            return self.emit(_UNARY[operation], a)
        if operation in _BINARY and not node.kwargs:
            return self.emit(_BINARY[operation], a, b)
        if operation in ("add", "sub"):
            scaled = self.emit("mul", float(node.kwargs.get("alpha", 1.0)), b)  # type: ignore[arg-type]
            return self.emit(operation, a, scaled)
        if operation == "rsub":
            return self.emit("sub", b, a)
        if operation == "where":
            return self.emit("where", a, b, c)
        if operation == "masked_fill":
            return self.emit("where", b, c, a)
        if operation in ("zeros_like", "ones_like"):
            return 0.0 if operation == "zeros_like" else 1.0
        if operation in ("full_like", "full"):
            return b
        if operation in ("zeros", "ones", "scalar_tensor"):
            return {"zeros": 0.0, "ones": 1.0}.get(operation, a)
        if operation in ("clamp", "clamp_min", "clamp_max"):
            low, high = {"clamp": (b, c), "clamp_min": (b, None), "clamp_max": (None, b)}[operation]
            found = a if low is None else self.emit("max", a, low)
            return found if high is None else self.emit("min", found, high)
        if operation == "relu":
            return self.emit("max", a, 0.0)
        if operation == "threshold_backward":
            return self.emit("where", self.emit("gt", b, c), a, 0.0)
        if operation == "pow" and isinstance(b, float) and b in (1.0, 2.0, 3.0):
            return {
                1.0: lambda: a,
                2.0: lambda: self.emit("mul", a, a),
                3.0: lambda: self.emit("mul", a, self.emit("mul", a, a)),
            }[b]()
        if operation == "log_sigmoid_forward":
            return (self.emit("log_sigmoid", a), None)
        if operation == "log_sigmoid_backward":
            return self.emit("mul", a, self.emit("sigmoid", self.emit("neg", b)))
        if operation == "sigmoid_backward":
            return self.emit("mul", a, self.emit("mul", b, self.emit("sub", 1.0, b)))
        if operation == "reciprocal":
            return self.emit("div", 1.0, a)
        if operation == "getitem":
            return a[int(b)]
        raise NoDeviceForm(f"{label}: {operation} is not a function of one item's numbers")
