"""Launching Triton kernels at little cost."""

import functools
from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor
from triton.runtime import JITFunction

# Compiled kernels with the values of their constants, which a launch has to name again, and with
# what they were compiled from, so that it lives on and keeps its id.
_compiled: dict[tuple, tuple] = {}
# The launch below is not part of Triton's interface; these are the versions it was seen to fit.
_DIRECT = triton.__version__.startswith(('3.6.',)) and torch.version.hip is None


class Constants(dict):
    """Compile-time arguments of a kernel, to be made once and kept.

    Args:
        dtypes: What decides about the dtypes of all the tensors that the kernel is launched with.
        values: The arguments.
    """

    def __init__(self, dtypes: tuple[torch.dtype | None, ...], **values):
        super().__init__(values)
        self.dtypes = dtypes
        self._hash = hash((dtypes, tuple(values.items())))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self, other) and self.dtypes == other.dtypes


def cache_plan(function: Callable) -> Callable:
    """Keep what a function makes of sizes and dtypes.

    Constants of kernels are numbers: sizes that a compiler leaves open are settled here.
    """
    cached = functools.lru_cache(1024)(function)  # images may have any size

    @functools.wraps(function)
    def plan(*args, **kwargs):
        try:
            return cached(*args, **kwargs)
        except TypeError:  # open sizes cannot be looked up
            return cached(*map(_settle, args), **{k: _settle(v) for k, v in kwargs.items()})

    return plan


def _settle(value):
    if isinstance(value, tuple):
        return tuple(map(_settle, value))
    return int(value) if isinstance(value, torch.SymInt) else value


def launch(
    kernel: JITFunction,
    programs: int,
    constants: Constants,
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int | float] = (),
) -> None:
    """Run ``programs`` programs of a kernel.

    The kernel's parameters are the tensors, then the numbers, then its constants. Triton binds and
    examines all of them anew at each launch, which takes longer than many a kernel. Here a variant
    that was compiled is found by what else Triton specialises on (the device, alignment, what the
    integers are), and handed to the driver with bare pointers.
    """
    if isinstance(tensors[0], FunctionalTensor):  # traced by a compiler, to launch it later
        torch.library.wrap_triton(kernel)[programs,](*tensors, *numbers, **constants)
        return
    device = tensors[0].device
    # Kernels run on the current device, which need not be that of the tensors.
    if device.type == 'cuda' and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(kernel, programs, constants, tensors, numbers)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    bits = 0
    for pointer in pointers:
        bits |= pointer or 0
    # What Triton takes for granted about an integer: that it is 1, a multiple of 16, of 32 bits.
    traits = [(n == 1, n % 16 == 0, n >> 31) if isinstance(n, int) else None for n in numbers]
    # The kernel's own hash takes ten times as long as its id.
    key = (id(kernel), constants, device.index, *traits)
    found = _compiled.get(key) if bits % 16 == 0 else None
    if found is not None:
        compiled, values, _ = found
        compiled.run(
            programs,
            1,
            1,
            torch._C._cuda_getCurrentRawStream(device.index),
            compiled.function,
            compiled.packed_metadata,
            None,
            None,
            None,
            *pointers,
            *numbers,
            *values,
        )
        return
    compiled = kernel[programs,](*tensors, *numbers, **constants)
    # There is none under the interpreter, and parameters that are not aligned are the exception.
    if _DIRECT and compiled is not None and bits % 16 == 0:
        names = kernel.arg_names[len(tensors) + len(numbers) :]
        _compiled[key] = compiled, [constants[name] for name in names], kernel
