"""Prints device forms (:mod:`fastpref.objectives.device`) as C++ for host and CUDA, and as Triton.

Both texts are one function per form, its steps in order; there is no formula here. The C++ goes into ``csrc/core``, the Triton into
``kernels``: ``python csrc/generate_heads.py`` writes both, a test compiles and runs them against the definitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .device import DeviceForm, Operand, Step

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}
_TRUTH = ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not")

MADE = "Made by csrc/generate_heads.py from fastpref/objectives; edit those."


def cpp(forms: Sequence[DeviceForm]) -> str:
    """A header with one function template per form, and a list of them all."""
    lines = [
        "// The objective stage of every loss that has a device form: loss and derivatives of one item.",
        "//",
        f"// {MADE} One function per form: in, hyper -> out, in the order",
        "// that its comment names; w is the chosen sequence of a pair, l the rejected one. T is float or double.",
        "// clang-format off",
        "#pragma once",
        "",
        '#include "scalar.h"',
        "",
        "namespace fastpref {",
        "",
        *(line for form in forms for line in _cpp_function(form)),
        "// X(name, kind, inputs, hyper-parameters, outputs) for every function above.",
        "#define FASTPREF_HEADS(X) \\",
        *(
            f"  X({f.name}, {f.kind}, {len(f.inputs)}, {len(f.hyper)}, {len(f.outputs)})"
            + (" \\" if i + 1 < len(forms) else "")
            for i, f in enumerate(forms)
        ),
        "",
        "// X(name, kind, data, hyper-parameters, number of the whole call, variants), the last four as strings with commas. `in` holds, of a",
        "// pair for w and l each: policy, reference, length, data; a token has no length. `hyper` ends with the number of the call, if any.",
        "#define FASTPREF_HEAD_NAMES(X) \\",
        *(
            f'  X({f.name}, {f.kind}, "{",".join(f.data)}", "{",".join(f.hyper[: -1 if f.number else None])}", '
            f'"{f.number or ""}", "{",".join(f.variants)}")' + (" \\" if i + 1 < len(forms) else "")
            for i, f in enumerate(forms)
        ),
        "",
        "}  // namespace fastpref",
        "",
    ]
    return "\n".join(lines)


def _cpp_function(form: DeviceForm) -> list[str]:
    names = {n: f"in[{i}]" for i, n in enumerate(form.inputs)} | {n: f"hyper[{i}]" for i, n in enumerate(form.hyper)}
    truth: set[str] = set()
    body = []
    for step in form.steps:
        kind = "bool" if _is_truth(step, truth) else "T"
        body.append(f"  const {kind} {step.name} = {_cpp_expression(step, names)};")
    outputs = [f"  out[{i}] = {_cpp_operand(o, names)};" for i, o in enumerate(form.outputs)]
    return [
        *_comment(form, "//"),
        "template <typename T>",
        f"FASTPREF_FN void head_{form.name}(const T* in, const T* hyper, T* out) {{",
        *([] if form.hyper else ["  (void)hyper;"]),
        *body,
        *outputs,
        "}",
        "",
    ]


def _comment(form: DeviceForm, mark: str) -> list[str]:
    out = ["loss", *(f"d {n}" for n in form.inputs if n.startswith("policy"))]
    return [
        f"{mark} {form.name}, one {form.kind}.",
        f"{mark} in: {', '.join(form.inputs)}; hyper: {', '.join(form.hyper) or 'none'}; out: {', '.join(out)}.",
    ]


def _is_truth(step: Step, truth: set[str]) -> bool:
    """Whether a step's result is a truth value; remembers those that are."""
    found = step.operation in _TRUTH or (
        step.operation == "where" and any(isinstance(a, str) and a in truth for a in step.arguments[1:])
    )
    if found:
        truth.add(step.name)
    return found


def _cpp_operand(operand: Operand, names: Mapping[str, str]) -> str:
    return names.get(operand, operand) if isinstance(operand, str) else f"T({_number(operand)})"


def _cpp_expression(step: Step, names: Mapping[str, str]) -> str:
    given = [_cpp_operand(a, names) for a in step.arguments]
    operation = step.operation
    if operation in _INFIX:
        return f"{given[0]} {_INFIX[operation]} {given[1]}"
    if operation in ("and", "or"):
        return f"{given[0]} {'&&' if operation == 'and' else '||'} {given[1]}"
    if operation == "not":
        return f"!{given[0]}"
    if operation == "neg":
        return f"-{given[0]}"
    if operation == "where":
        return f"{given[0]} ? {given[1]} : {given[2]}"
    return f"scalar_{operation}({', '.join(given)})"


def triton(forms: Sequence[DeviceForm]) -> str:
    """A module with one device function per form."""
    lines = [
        '"""The objective stage of every loss that has a device form: loss and derivatives of one item, elementwise.',
        "",
        f"{MADE} Inputs, then hyper-parameters, in the order of the arguments;",
        "``w`` is the chosen sequence of a pair, ``l`` the rejected one. Returns the loss, then its derivative with respect to each ``policy``.",
        "",
        "``item_*`` is the same with the arguments of every head of its kind: data ``x0`` and up, hyper-parameters ``h0`` and up, and the number of",
        "the whole call. ``HEADS`` has them by name, ``NAMES`` the name of the head of every variant of an objective.",
        '"""',
        "",
        "# fmt: off",
        "# ruff: noqa: D103",
        "import triton",
        "import triton.language as tl",
        "",
        "from .head import Head",
        "from .scalar import expm1, log1p, log_sigmoid, sigmoid, sign",
        "",
    ]
    for form in forms:
        lines += ["", "@triton.jit", f"def head_{form.name}({', '.join([*form.inputs, *form.hyper])}):"]
        lines += [f"    {s.name} = {_triton_expression(s)}" for s in form.steps]
        lines += [f"    return {', '.join(_triton_operand(o) for o in form.outputs)}", "", *_triton_item(form)]
    lines += ["", "HEADS = {"]
    lines += [
        f'    "{f.name}": Head(item_{f.name}, "{f.kind}", {f.data!r}, {f.hyper[: -1 if f.number else None]!r}, {f.number!r}),'
        for f in forms
    ]
    lines += ["}", "", "NAMES = {"]
    lines += [f'    "{variant}": "{f.name}",' for f in forms for variant in f.variants]
    lines += ["}", ""]
    return "\n".join(lines)


_DATA_SLOTS = {"pair": 1, "sequence": 3, "token": 5}
_HYPER_SLOTS = 5


def _triton_item(form: DeviceForm) -> list[str]:
    """The head with the arguments of every head of its kind, those that it does not read among them."""
    numbers = form.hyper[: -1 if form.number else None]
    if len(form.data) > _DATA_SLOTS[form.kind] or len(numbers) > _HYPER_SLOTS:
        raise ValueError(f"{form.name}: expected at most {_DATA_SLOTS[form.kind]} data and {_HYPER_SLOTS} numbers")
    sides = ("_w", "_l") if form.kind == "pair" else ("",)
    names = ("policy", "reference") if form.kind == "token" else ("policy", "reference", "length")
    slots = [f"x{i}{side}" for i in range(_DATA_SLOTS[form.kind]) for side in sides]
    given = [f"{name}{side}" for name in names for side in sides]
    hyper = [f"h{i}" for i in range(_HYPER_SLOTS)]
    called = [
        *given,
        *slots[: len(form.data) * len(sides)],
        *hyper[: len(numbers)],
        *(["number"] if form.number else []),
    ]
    return [
        "",
        "@triton.jit",
        f"def item_{form.name}({', '.join([*given, *slots, *hyper, 'number'])}):",
        f"    return head_{form.name}({', '.join(called)})",
        "",
    ]


_TRITON_CALLS = {
    "exp": "tl.exp",
    "log": "tl.log",
    "sqrt": "tl.sqrt",
    "abs": "tl.abs",
    "min": "tl.minimum",
    "max": "tl.maximum",
}


def _triton_operand(operand: Operand) -> str:
    return operand if isinstance(operand, str) else _number(operand)


def _triton_expression(step: Step) -> str:
    given = [_triton_operand(a) for a in step.arguments]
    operation = step.operation
    if operation in _INFIX:
        return f"{given[0]} {_INFIX[operation]} {given[1]}"
    if operation in ("and", "or"):
        return f"{given[0]} {'&' if operation == 'and' else '|'} {given[1]}"
    if operation == "not":
        return f"{given[0]} == 0"
    if operation == "neg":
        return f"-{given[0]}"
    if operation == "where":
        return f"tl.where({', '.join(given)})"
    return f"{_TRITON_CALLS.get(operation, operation)}({', '.join(given)})"


def _number(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"a device form holds {value!r}, which has no literal")
    return repr(float(value))
