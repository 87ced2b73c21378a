"""Launching Triton kernels at little cost."""

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor
from triton.runtime import JITFunction

_MOST_LAUNCHES = 4096
# How a compiled kernel is called is not part of Triton's interface. Here it is called as Triton
# calls it itself (3.4 to 3.8 do so); where that is done in another way, all goes through Triton.
_TRITONS_CALL = """
    kernel.run(grid_0, grid_1, grid_2, stream, kernel.function, kernel.packed_metadata,
               launch_metadata, knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook,
               *bound_args.values())
"""


def fits(source: str) -> bool:
    """Whether Triton launches a kernel as it is done here, by the source of its launch."""
    return ''.join(_TRITONS_CALL.split()) in ''.join(source.split())


_DIRECT = torch.version.hip is None and fits(inspect.getsource(JITFunction.run))


class Constants(dict):
    """Compile-time arguments of a kernel, by name, to be made once by a plan and kept.

    Attributes:
        launches: What was compiled, with the values of its constants, for each kernel, device and
            numbers that it was launched with.
    """

    def __init__(self, **values):
        super().__init__(values)
        self.launches = {}


def cache_plan(function: Callable) -> Callable:
    """Keep the constants of kernels that a function makes of sizes and dtypes.

    Its arguments must decide about the dtypes of all the tensors that these kernels are launched
    with, and which of them are none: a kernel that was compiled is not looked up by them again.
    Constants are numbers: sizes that a compiler leaves open are settled here.
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
    examines all of them anew at each launch, which takes longer than many a kernel. Here a launch
    that differs from an earlier one in its pointers alone, all of them aligned, goes to the driver.
    """
    if isinstance(tensors[0], FunctionalTensor):  # traced by a compiler, to launch it later
        torch.library.wrap_triton(kernel)[programs,](*tensors, *numbers, **constants)
        return
    device = tensors[0].device
    # Kernels run on the current device, which need not be that of the tensors.
    if device.type == 'cuda' and device.index != torch._C._cuda_getDevice():
        with torch.cuda.device(device):
            return launch(kernel, programs, constants, tensors, numbers)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    bits = 0
    for pointer in pointers:
        bits |= pointer or 0
    # The kernel's own hash takes ten times as long as its id.
    key = (id(kernel), device.index, *numbers)
    found = constants.launches.get(key) if bits % 16 == 0 else None
    if found is not None:
        compiled, values = found
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
        if len(constants.launches) >= _MOST_LAUNCHES:  # images of ever new sizes
            constants.launches.clear()
        constants.launches[key] = compiled, [constants[name] for name in names]
