"""Repairs of the interpreter of triton 3.9.0, which runs kernels in numpy when ``TRITON_INTERPRET=1``.

What is wrong there and is put right here:

* bfloat16 is kept as uint16 bit patterns and computed on as integers; casts to it truncate. Here every operation on bfloat16
  is done in float32 and rounded to nearest even, as the compiled code does.
* ``tl.max`` and ``tl.min`` warn where a lane holds nothing but NaN; numpy warns about every inf - inf. Kernels do both on purpose.
* An exception inside a kernel arrives as text; a :class:`MemoryFault` now arrives as itself.
* Every call of a device function puts all of ``triton.language`` in place again, which takes longer than most of them do; now the
  first of a launch does. The table of numpy's types is made once per type and not once per value.

All of this replaces private names, so it is tied to one exact version: with any other the tests that need it skip.
"""

from __future__ import annotations

import functools
import importlib.util

import numpy as np

from . import memory
from .bfloat16 import from_float32, to_float32

VERSION = "3.9.0"


def why_not() -> str | None:
    """Why kernels cannot be interpreted in this process, or ``None``."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    import triton

    if triton.__version__ != VERSION:
        return f"the interpreter repair is written for triton {VERSION}, found {triton.__version__}"
    if not triton.knobs.runtime.interpret:
        return "TRITON_INTERPRET=1 was not set when the tests started"
    return None


@functools.cache
def repair() -> str | None:
    """Repair the interpreter of this process, once; returns the reason where that is not possible."""
    if (reason := why_not()) is not None:
        return reason
    from triton.runtime import interpreter

    _repair_bfloat16(interpreter)
    _repair_reductions(interpreter)
    _repair_patching(interpreter)
    _repair_launch(interpreter)
    memory.install(interpreter)
    return None


def _repair_bfloat16(interpreter) -> None:
    import triton.language as tl

    Handle, builder = interpreter.TensorHandle, interpreter.InterpreterBuilder
    stock = {
        name: getattr(builder, name)
        for name in ("cast_impl", "create_fp_to_fp", "binary_op", "unary_op", "create_fma", "create_dot")
    }

    def is_bfloat16(*handles) -> bool:
        return any(h.dtype.scalar == tl.bfloat16 for h in handles)

    def widened(handle):
        return Handle(to_float32(handle.data), tl.float32) if is_bfloat16(handle) else handle

    def narrowed(values):
        return Handle(from_float32(values), tl.bfloat16)

    def cast_impl(self, src, dst_type):
        if dst_type.scalar == tl.bfloat16:
            return src if is_bfloat16(src) else narrowed(src.data)
        return stock["cast_impl"](self, widened(src), dst_type)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        if is_bfloat16(src) or dst_type.scalar == tl.bfloat16:
            if rounding_mode == interpreter._ir.ROUNDING_MODE.RTZ:
                raise NotImplementedError("casts that round bfloat16 towards zero are not emulated")
            return cast_impl(self, src, dst_type)
        return stock["create_fp_to_fp"](self, src, dst_type, rounding_mode)

    def binary_op(self, lhs, rhs, op):
        if not is_bfloat16(lhs, rhs):
            return stock["binary_op"](self, lhs, rhs, op)
        result = op(widened(lhs).data, widened(rhs).data)
        # Comparisons keep the operands' type in stock handles too: the caller takes the result for an int1.
        return Handle(result, tl.bfloat16) if result.dtype == np.bool_ else narrowed(result)

    def unary_op(self, arg, op):
        return narrowed(op(widened(arg).data)) if is_bfloat16(arg) else stock["unary_op"](self, arg, op)

    def create_fma(self, x, y, z):
        if not is_bfloat16(x, y, z):
            return stock["create_fma"](self, x, y, z)
        return narrowed(stock["create_fma"](self, widened(x), widened(y), widened(z)).data)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return stock["create_dot"](self, widened(a), widened(b), d, input_precision, max_num_imprecise_acc)

    for method in (cast_impl, create_fp_to_fp, binary_op, unary_op, create_fma, create_dot):
        setattr(builder, method.__name__, method)


def _repair_reductions(interpreter) -> None:
    import triton.language as tl

    def reduce_in_float32(stock):
        def apply_impl(self, operands):
            # The compiler promotes bfloat16 to float32 before it reduces, and so does tl.sum's result.
            return stock(
                self,
                tuple(
                    self.to_tensor(to_float32(t.handle.data), tl.float32) if t.dtype.scalar == tl.bfloat16 else t
                    for t in operands
                ),
            )

        return apply_impl

    for reducer in (interpreter.ReduceOps, interpreter.ScanOps):
        reducer.apply_impl = reduce_in_float32(reducer.apply_impl)

    stock_min_max = interpreter.ReduceOps.min_max
    # fmax and fmin pass over NaN like nanmax and nanmin, and are silent where there is nothing else.
    quiet = {np.nanmax: np.fmax.reduce, np.nanmin: np.fmin.reduce}

    def min_max(self, operand, val_reduce_op, idx_reduce_op=None):
        return stock_min_max(self, operand, quiet.get(val_reduce_op, val_reduce_op), idx_reduce_op)

    interpreter.ReduceOps.min_max = min_max


def _repair_patching(interpreter) -> None:
    import triton.language as tl

    stock_patch, stock_launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    in_place: set[tuple[bool, ...]] = set()  # of the launch that is running, whose end restores it

    @functools.cache
    def modules(fn) -> tuple[bool, ...]:
        return tuple(any(value is module for value in fn.__globals__.values()) for module in (tl, tl.core))

    def patch(fn):
        seen = modules(fn)
        if seen in in_place:
            return interpreter._LangPatchScope()
        in_place.add(seen)
        return stock_patch(fn)

    def launch(self, *args, **kwargs):
        in_place.clear()
        try:
            return stock_launch(self, *args, **kwargs)
        finally:
            in_place.clear()

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch, launch
    stock_type = interpreter._get_np_dtype
    by_element = functools.cache(stock_type)
    interpreter._get_np_dtype = lambda dtype: by_element(dtype) if type(dtype) is tl.dtype else stock_type(dtype)


def _repair_launch(interpreter) -> None:
    stock = interpreter.GridExecutor.__call__

    @functools.wraps(stock)
    def launch(self, *args, **kwargs):
        with np.errstate(all="ignore"):
            try:
                return stock(self, *args, **kwargs)
            except interpreter.InterpreterError as error:
                cause = error.__cause__
                while isinstance(cause, interpreter.InterpreterError):  # one layer per jitted function on the way
                    cause = cause.__cause__
                if isinstance(cause, memory.MemoryFault):
                    raise cause from None
                raise

    interpreter.GridExecutor.__call__ = launch
