"""Tensors that say they are on a GPU, with their numbers on the CPU: code takes the branches that it takes for a GPU, and may not look.

::

    with stand_in_device() as device:                   # torch.device("cuda", 0), where there is none
        logits = device.put(torch.randn(3, 100))        # what comes of it is on the device too
        loss = step(logits)                             # raises HostRead where values have to reach the host
    device.get(loss)                                    # the numbers, outside

A :class:`HostRead` is what would make a GPU's queue run dry: ``item``, ``tolist``, ``bool``, a shape that depends on values (``nonzero``, masks as
indices, ``unique``), and a copy between host and device that is not asynchronous. Triton kernels run in the interpreter on the numbers, CUDA
kernels in their emulator.

Torch itself takes the tensors for CPU tensors (a build without CUDA cannot do otherwise), so its own device checks are not exercised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._library.custom_ops import OPDEFS
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

from fastpref.backends.cuda import CudaBackend

DEVICE = torch.device("cuda", 0)
PROPERTIES = SimpleNamespace(name="stand-in", multi_processor_count=132)

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense,
    _aten.is_nonzero,
    _aten.equal,
    _aten.nonzero,
    _aten.masked_select,
    _aten._unique2,
    _aten.unique_dim,
    _aten.unique_consecutive,
}


class HostRead(RuntimeError):
    """The host would wait for the device."""


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on :data:`DEVICE`; ``numbers`` is the CPU tensor that it stands for."""

    numbers: torch.Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=numbers.device,
        )
        made.numbers = numbers
        return made

    def data_ptr(self) -> int:
        """Of the numbers: the emulated CUDA kernels take addresses."""
        return self.numbers.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor(shape={list(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "fastpref":  # its kernel sees the device too
            with torch._C._EnableTorchFunction(), _Functions():  # torch switches the mode off around an operator
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        if (made_of_others := func.decompose(*args, **kwargs)) is not NotImplemented:
            return made_of_others
        packet = func.overloadpacket
        boolean_index = packet in (_aten.index, _aten.index_put, _aten.index_put_) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        unsized = packet is _aten.repeat_interleave and kwargs.get("output_size") is None
        if packet in _READS or boolean_index or unsized:
            raise HostRead(f"{func} needs values of a tensor on the device")
        inner_args, inner_kwargs = tree_map_only(DeviceTensor, lambda t: t.numbers, (args, kwargs))
        if func is _aten.mm.dtype_out:  # CUDA only: 16-bit operands into float32
            a, b, dtype = inner_args
            found = inner_kwargs["out"].copy_(a.to(dtype) @ b.to(dtype))
        else:
            found = func(*inner_args, **inner_kwargs)
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(torch.Tensor, DeviceTensor, found))


def _is_device(value: Any) -> bool:
    return isinstance(value, (str, torch.device)) and torch.device(value).type == DEVICE.type


class _Functions(TorchFunctionMode):
    """Factories and copies that name the device; the copies that name the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy) and isinstance(args[0], DeviceTensor):
            raise HostRead(f"{func.__name__} copies a tensor from the device")
        named = [value for value in (*args[1:], kwargs.get("device")) if isinstance(value, (str, torch.device))]
        if func is torch.Tensor.to and named:
            return self._to(args, kwargs, named[0])
        if not _is_device(kwargs.get("device")):
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        if func is torch.tensor:
            raise HostRead("torch.tensor copies host values to the device and waits")
        found = func(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda t: t if isinstance(t, DeviceTensor) else DeviceTensor(t), found)

    def _to(self, args: Any, kwargs: Any, device: Any) -> Any:
        source = args[0]
        if _is_device(device) != isinstance(source, DeviceTensor):
            if not kwargs.get("non_blocking") or not _is_device(device):
                where = "from the host to the device" if _is_device(device) else "from the device to the host"
                raise HostRead(f"to copies a tensor {where} and waits")
            source = DeviceTensor(source)
        rest = [value for value in args[1:] if not isinstance(value, (str, torch.device))]
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")}
        return source.to(*rest, **kwargs) if rest or kwargs else source


class StandInDevice:
    """What :func:`stand_in_device` gives."""

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A leaf on the device with these numbers."""
        return DeviceTensor(tensor.detach().clone()).requires_grad_(tensor.requires_grad)

    def get(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers."""
        return tensor.detach().numbers if isinstance(tensor, DeviceTensor) else tensor.detach()


@contextmanager
def stand_in_device() -> Iterator[StandInDevice]:
    """Triton's interpreter has to be on, and repaired; of CUDA's kernels the emulator's library has to be loaded, where they are used."""
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def on_numbers(self: Any, *args: Any, **kwargs: Any) -> Any:
        return launch(self, *tree_map_only(DeviceTensor, lambda t: t.numbers, args), **tree_map_only(DeviceTensor, lambda t: t.numbers, kwargs))  # fmt: skip

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", on_numbers),
        mock.patch.object(torch.cuda, "device_of", return_value=nullcontext()),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=PROPERTIES),
        mock.patch.object(CudaBackend, "why_not", return_value=None),
        _Functions(),
    ):
        yield StandInDevice()
