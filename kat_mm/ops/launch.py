"""Launching Triton kernels at little cost."""

from typing import Any

import torch
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import JITFunction

_compiled: dict[tuple, tuple[CompiledKernel, tuple]] = {}


class Constants(dict):
    """Compile-time arguments of a kernel, as one hashable thing: make each once and keep it."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def launch(kernel: JITFunction, programs: int, constants: Constants, *args: Any) -> None:
    """Run ``programs`` programs of a kernel whose ordinary parameters precede its constants.

    Triton examines and binds every argument anew at each launch, the constants too; here a variant
    that was compiled is found by what Triton specialises on, and launched as it is. Kernels run on
    the current device, which need not be that of the tensors.
    """
    device = args[0].device
    if device.type == 'cuda' and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(kernel, programs, constants, *args)
    key = (kernel, constants, device, *[_traits(arg) for arg in args])
    found = _compiled.get(key)
    if found is not None:
        compiled, tail = found
        compiled[programs, 1, 1](*args, *tail)
        return
    compiled = kernel[(programs,)](*args, **constants)
    if compiled is not None:  # not under the interpreter
        tail = tuple(constants[name] for name in kernel.arg_names[len(args) :])
        _compiled[key] = compiled, tail


def _traits(arg: Any) -> Any:
    """What a compiled kernel takes for granted about an argument."""
    if isinstance(arg, Tensor):
        return arg.dtype, arg.data_ptr() % 16
    if isinstance(arg, int):
        return arg % 16 == 0, arg == 1, arg.bit_length() > 31
    return type(arg)
