"""What is compiled: every kernel as its launch function launches it, in its default configuration and its main variants.

A kernel is added by one :class:`Case` per variant. Tensors are never touched, only their shapes, strides and alignment count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from fastpref.kernels import (
    linear_grad,
    linear_stats,
    objective_heads,
    objective_stage,
    row_grad,
    row_kl,
    row_stats,
    scale_rows,
    tiling,
)
from fastpref.kernels.kept_layout import kept_layout

ROWS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Three programs of 256 threads fit a multiprocessor up to here, two up to there: with the loads of one step of each, enough bytes in
# flight to cover the latency of memory.
THREE_PROGRAMS, TWO_PROGRAMS = 85, 128


class Case(NamedTuple):
    """One kernel in one variant, and what must hold of it on every target."""

    kernel: str  # the jitted function's name, without its underscore
    variant: str
    launch: Callable[[], Any]
    streams: bool = True
    """Whether its rows are aligned, so that its loads and stores must be of 16 bytes."""
    narrow_on: tuple[str, ...] = ()
    """Targets where its loads are of fewer bytes all the same."""
    loops_alone: bool = False
    """Whether the threads of its loop must not communicate."""
    tensor_cores: bool = False
    """Whether it multiplies matrices of 16 bits."""
    most_registers: int = 255
    """On NVIDIA, per thread."""
    may_spill: bool = False
    """Where what it works on is out of the ordinary: correct, and slower."""

    @property
    def name(self) -> str:
        return f"{self.kernel}, {self.variant}"


def logits(dtype: str, columns: int = 32768) -> Tensor:
    return torch.empty(ROWS, columns, dtype=DTYPES[dtype])


def targets() -> Tensor:
    return torch.empty(ROWS, dtype=torch.int64)


def per_row(count: int) -> tuple[Tensor, ...]:
    return tuple(torch.empty(ROWS) for _ in range(count))


def every_statistic() -> dict[str, Tensor]:
    s2, sd, total, top = per_row(4)
    return {"s2": s2, "sd": sd, "total": total, "top": top, "argmax": targets()}


# What a launch may be asked for beside plain logits; made when it is used, because some are tensors.
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "scale": lambda: {"scale": 0.5},
    "softcap": lambda: {"cap": 30.0},
    "row temperature": lambda: {"row_scale": per_row(1)[0]},
    "gain": lambda: {"gain": torch.empty(1)},
    "softcap, row temperature": lambda: {"cap": 30.0, "row_scale": per_row(1)[0]},
    "log_sum_sq_probs": lambda: {"s2": per_row(1)[0]},
    "all statistics": every_statistic,
    "all statistics, softcap": lambda: {**every_statistic(), "cap": 30.0},
}


def _row_stats(dtype: str, options: str, columns: int = 32768) -> Case:
    def launch() -> None:
        row_stats.row_stats(logits(dtype, columns), targets(), *per_row(3), **OPTIONS[options]())

    registers = TWO_PROGRAMS if "all" in options else THREE_PROGRAMS
    return _case("row_stats", dtype, options, columns, launch, loops_alone=True, most_registers=registers)


def _row_parts(dtype: str, options: str) -> Case:
    """Rows that are split over programs, because there are fewer than multiprocessors."""

    def launch() -> None:
        row_stats.row_stats(logits(dtype), targets(), *per_row(3), **OPTIONS[options](), multiprocessors=132)

    registers = TWO_PROGRAMS if "all" in options else THREE_PROGRAMS
    variant = f"{dtype}, {options}, split rows"
    return Case("row_stats", variant, launch, loops_alone=True, most_registers=registers)


def _row_partials(dtype: str, options: str, multiprocessors: int) -> Case:
    def launch() -> None:
        how = {**OPTIONS[options](), "ignore_index": -100, "multiprocessors": multiprocessors}
        row_stats.row_partials(logits(dtype), logits(dtype), targets(), **how)

    variant = f"{dtype}, {options}, policy and reference{', split rows' if multiprocessors else ''}"
    return Case("row_stats", variant, launch, loops_alone=True, most_registers=THREE_PROGRAMS)


def _merge_row_stats(options: str) -> Case:
    """A few numbers per row: nothing in it needs 16-byte accesses."""

    def launch() -> None:
        row_stats.row_stats(logits("bfloat16"), targets(), *per_row(3), **OPTIONS[options](), multiprocessors=132)

    return Case("merge_row_stats", options, launch, streams=False)


def _row_grad(dtype: str, options: str, columns: int = 32768) -> Case:
    def launch() -> None:
        x = logits(dtype, columns)
        row_grad.row_grad(x, targets(), *per_row(3), x, **OPTIONS[options]())

    return _case("row_grad", dtype, options, columns, launch, most_registers=THREE_PROGRAMS)


def _candidate(case: Case, num_warps: int) -> Case:
    """A case with another number of warps, from which autotuning may choose."""

    def launch() -> None:
        with mock.patch.object(tiling, "most_warps", return_value=num_warps):
            case.launch()

    return case._replace(variant=f"{case.variant.replace(', plain', '')}, {num_warps} warps", launch=launch)


def _row_cross(dtype: str, options: str) -> Case:
    def launch() -> None:
        state = per_row(6)
        both = logits(dtype), logits(dtype)
        row_kl.row_cross(*both, targets(), state[:3], state[3:5], state[5], **OPTIONS[options]())

    return _case("row_cross", dtype, options, 32768, launch, loops_alone=True, most_registers=THREE_PROGRAMS)


def _row_kl_grad(dtype: str, options: str, direction: str) -> Case:
    def launch() -> None:
        x, saved, coefs, how = logits(dtype), per_row(3), per_row(3), OPTIONS[options]()
        row_kl.row_kl_grad(x, logits(dtype), targets(), saved, coefs, x, forward=direction == "forward", **how)

    # With the softcap's slopes too it is 144 registers on sm_100, and one program of 256 threads: see `in flight` in the table.
    registers = TWO_PROGRAMS if options == "plain" else 168
    return _case("row_kl_grad", dtype, f"{direction}, {options}", 32768, launch, most_registers=registers)


def _case(kernel: str, dtype: str, options: str, columns: int, launch: Callable[[], None], **what: Any) -> Case:
    """One column is specialised away, with the row stride."""
    where = ", one column" if columns == 1 else ""
    return Case(kernel, f"{dtype}, {options}{where}", launch, streams=columns > 1, **what)


TOKENS, VOCAB, HIDDEN = 2048, 32768, 4096


class Linear:
    """Operands of a linear head, and what its kernels take and give per token. Memory of this size is never touched."""

    def __init__(self, dtype: str, hidden: int = HIDDEN) -> None:
        self.operands = (
            torch.empty(TOKENS, hidden, dtype=DTYPES[dtype]),
            torch.empty(VOCAB, hidden, dtype=DTYPES[dtype]),
        )
        self.bias = torch.empty(VOCAB, dtype=DTYPES[dtype])
        self.targets = torch.empty(TOKENS, dtype=torch.int64)
        self.floats = tuple(torch.empty(TOKENS) for _ in range(5))
        self.out = torch.empty(TOKENS, VOCAB, dtype=DTYPES[dtype])

    def kept(self, softcap: bool) -> tuple[Tensor, Tensor | None]:
        layout = kept_layout(*(x.dtype for x in self.operands), VOCAB, softcap)
        return layout.views(torch.empty(TOKENS * layout.row_bytes(), dtype=torch.uint8), TOKENS)


_TRANSFORMS = {"softcap": {"cap": 30.0}, "scale": {"scale": 0.5}}
_FIELDS = {"all statistics": dict.fromkeys(("s2", "sd", "total", "top"), True)}


def _linear_stats(dtype: str, options: str, hidden: int = HIDDEN) -> Case:
    def launch() -> None:
        x = Linear(dtype, hidden)
        what = _TRANSFORMS.get(options, {}) | _FIELDS.get(options, {})
        what["kept"] = x.kept(softcap=False) if options == "kept" else None
        bias = x.bias if options == "bias" else None
        linear_stats.linear_partials(*x.operands, bias, x.targets, x.floats[0], **what)

    return _linear("linear_stats", dtype, options, hidden, launch)


def _linear_grad(dtype: str, options: str, hidden: int = HIDDEN) -> Case:
    def launch() -> None:
        x = Linear(dtype, hidden)
        what = dict(_TRANSFORMS.get(options, {}))
        if options == "bias":
            what |= {"db": torch.empty(linear_grad.row_tiles(*x.operands), VOCAB), "factor": x.floats[4]}
        bias = x.bias if options == "bias" else None
        linear_grad.linear_grad(*x.operands, bias, x.targets, *x.floats[:3], x.out, **what)

    return _linear("linear_grad", dtype, options, hidden, launch)


def _kept_grad(dtype: str, options: str) -> Case:
    def launch() -> None:
        x = Linear(dtype)
        how = _TRANSFORMS.get(options, {})
        linear_grad.kept_grad(x.kept(options == "softcap"), x.targets, *x.floats[:4], x.out, **how)

    return Case("kept_grad", f"{dtype}, {options}", launch)


def _merge_partials(options: str) -> Case:
    def launch() -> None:
        names = ("s2", "sd", "total", "top") if options in _FIELDS else ()
        state = {name: torch.empty(TOKENS) for name in names}
        partial = {name: torch.empty(128, TOKENS) for name in ("m", "s", *names)}
        if names:
            state["argmax"] = torch.empty(TOKENS, dtype=torch.int64)
            partial["argmax"] = torch.empty(128, TOKENS, dtype=torch.int32)
        m, s, targets = torch.empty(TOKENS), torch.empty(TOKENS), torch.empty(TOKENS, dtype=torch.int64)
        linear_stats.merge_partials(linear_stats.Partials(**partial), targets, m, s, **state)

    return Case("merge_partials", options, launch, streams=False)


def _scale_rows(source: str, target: str) -> Case:
    def launch() -> None:
        x, out = (torch.empty(TOKENS, HIDDEN, dtype=DTYPES[dtype]) for dtype in (source, target))
        scale_rows.scale_rows(x, torch.empty(TOKENS), out)

    return Case("scale_rows", f"{source} to {target}", launch)


def _objective(kernel: str, loss: str) -> Case:
    """A few numbers per token by one program: nothing in it needs 16-byte accesses, and it must fit a multiprocessor alone."""

    def launch() -> None:
        head = objective_heads.HEADS[loss]
        partials = torch.empty(2, 1, TOKENS), torch.empty(2, 1, TOKENS), torch.empty(2, TOKENS)
        number = torch.empty(1) if head.number else None
        data = tuple(None if name == "old_logps" else torch.empty(8) for name in head.data)
        objective_stage.objective(
            head, (0.1,) * len(head.hyper), partials, torch.empty(TOKENS, dtype=torch.int64),
            torch.empty(9, dtype=torch.int32), ignore_index=-100, data=data, number=number,
            divisors=torch.empty(8, dtype=torch.float64) if head.kind == "token" else None,
        )  # fmt: skip

    return Case(kernel, loss, launch, streams=False)


def _linear(kernel: str, dtype: str, options: str, hidden: int, launch: Callable[[], None]) -> Case:
    """16-bit operands are multiplied by tensor cores, float32 ones are not. An odd width has no aligned rows.

    gfx950 copies float32 to shared memory past the registers, which triton does there by 4 bytes per thread.
    """
    where = "" if hidden == HIDDEN else f", H {hidden}"
    narrow = dtype != "float32"
    aligned = hidden % 8 == 0
    return Case(
        kernel, f"{dtype}, {options}{where}", launch, streams=aligned, narrow_on=() if narrow else ("gfx950",),
        tensor_cores=narrow, may_spill=not aligned,
    )  # fmt: skip


CASES: list[Case] = [
    *(_row_stats(dtype, "plain") for dtype in DTYPES),
    *(_row_stats(dtype, "all statistics") for dtype in ("float32", "bfloat16")),
    *(
        _row_stats("bfloat16", options)
        for options in ("scale", "softcap", "softcap, row temperature", "log_sum_sq_probs", "all statistics, softcap")
    ),
    _row_stats("float16", "plain", columns=1),
    *(_row_parts("bfloat16", options) for options in ("plain", "all statistics")),
    *(_row_partials("bfloat16", "plain", multiprocessors) for multiprocessors in (0, 132)),
    _row_partials("float32", "plain", 132),
    _row_partials("bfloat16", "softcap", 132),
    *(_merge_row_stats(options) for options in ("plain", "all statistics")),
    *(_row_grad(dtype, "plain") for dtype in DTYPES),
    *(_row_grad("bfloat16", options) for options in ("softcap", "row temperature", "gain")),
    _row_grad("float16", "plain", columns=1),
    *(_candidate(make("bfloat16", "plain"), n) for make in (_row_stats, _row_grad) for n in (2, 4, 8, 16)),
    *(_row_cross(dtype, "plain") for dtype in ("float32", "bfloat16")),
    _row_cross("bfloat16", "softcap"),
    *(_row_kl_grad("bfloat16", "plain", direction) for direction in ("forward", "reverse")),
    _row_kl_grad("float32", "plain", "forward"),
    _row_kl_grad("bfloat16", "softcap", "reverse"),
    *(_linear_stats(dtype, "plain") for dtype in DTYPES),
    *(_linear_stats("bfloat16", options) for options in ("softcap", "bias", "all statistics", "kept")),
    *(_linear_stats("bfloat16", "plain", hidden) for hidden in (4080, 4095)),
    *(_merge_partials(options) for options in ("plain", "all statistics")),
    *(_linear_grad(dtype, "plain") for dtype in DTYPES),
    *(_linear_grad("bfloat16", options) for options in ("softcap", "bias")),
    _linear_grad("bfloat16", "plain", 4095),
    *(_kept_grad("bfloat16", options) for options in ("plain", "softcap")),
    _kept_grad("float32", "plain"),
    *(_scale_rows("float32", dtype) for dtype in ("float32", "bfloat16")),
    _scale_rows("bfloat16", "bfloat16"),
    *(_objective("sequence_objective", loss) for loss in ("sigmoid", "kto")),
    _objective("token_objective", "grpo"),
]


def is_main(index: int) -> bool:
    """Whether a case is its kernel's first, or one of plain bfloat16: together every kernel and every way to launch it."""
    case = CASES[index]
    first = all(case.kernel != other.kernel for other in CASES[:index])
    return first or ("bfloat16" in case.variant and "plain" in case.variant)
