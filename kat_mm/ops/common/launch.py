"""Plans of kernels, and launching them at little cost."""

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
import triton.language as tl
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor
from triton.runtime import JITFunction

TRITON_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
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


def uses_ptx(is_cuda: bool) -> bool:
    """Whether kernels may use PTX: not under the interpreter, nor on AMD."""
    return is_cuda and torch.version.hip is None


class Plan(dict):
    """How a kernel is compiled: its compile-time arguments by name, made once and kept.

    Args:
        dtype: Of the arithmetic, which the kernel knows as DTYPE; none where it has no choice.
        constants: The other arguments: numbers.

    Attributes:
        dtype: As given.
        launches: What was compiled, with the values of its constants, for each kernel, device and
            numbers that it was launched with.
    """

    def __init__(self, dtype: torch.dtype | None = None, **constants):
        super().__init__(constants)
        if dtype is not None:
            self['DTYPE'] = TRITON_DTYPES[dtype]
        self.dtype = dtype
        self.launches = {}


def cache_plan(function: Callable[..., Plan]) -> Callable[..., Plan]:
    """Keep the plans that a function makes of sizes and dtypes.

    Its arguments must decide about the dtypes of all the tensors that kernels are launched with by
    the plan, and which of them are none: a kernel that was compiled is not looked up by them again.
    Constants are numbers: sizes that a compiler leaves open are settled here.
    """
    cached = functools.lru_cache(1024)(function)  # images may have any size

    @functools.wraps(function)
    def kept(*args, **kwargs):
        try:
            return cached(*args, **kwargs)
        except TypeError:  # open sizes cannot be looked up
            return cached(*map(_settle, args), **{k: _settle(v) for k, v in kwargs.items()})

    return kept


def _settle(value):
    if isinstance(value, tuple):
        return tuple(map(_settle, value))
    return int(value) if isinstance(value, torch.SymInt) else value


def launch(
    kernel: JITFunction,
    programs: int,
    plan: Plan,
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int | float] = (),
) -> None:
    """Run ``programs`` programs of a kernel.

    The kernel's parameters are the tensors, then the numbers, then the constants of its plan.
    Triton binds and examines all of them anew at each launch, which takes longer than many a
    kernel. Here a launch that differs from an earlier one in its pointers alone, all of them
    aligned, goes to the driver.
    """
    if isinstance(tensors[0], FunctionalTensor):  # traced by a compiler, to launch it later
        from .tracing import trace  # with modules that nothing else needs

        trace(kernel, programs, tensors, numbers, plan)
        return
    device = tensors[0].device
    # Kernels run on the current device, which need not be that of the tensors.
    if device.type == 'cuda' and device.index != torch._C._cuda_getDevice():
        with torch.cuda.device(device):
            return launch(kernel, programs, plan, tensors, numbers)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    bits = 0
    for pointer in pointers:
        bits |= pointer or 0
    # The kernel's own hash takes ten times as long as its id.
    key = (id(kernel), device.index, *numbers)
    found = plan.launches.get(key) if bits % 16 == 0 else None
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
    compiled = kernel[programs,](*tensors, *numbers, **plan)
    # There is none under the interpreter, and parameters that are not aligned are the exception.
    if _DIRECT and compiled is not None and bits % 16 == 0:
        names = kernel.arg_names[len(tensors) + len(numbers) :]
        if len(plan.launches) >= _MOST_LAUNCHES:  # images of ever new sizes
            plan.launches.clear()
        plan.launches[key] = compiled, [plan[name] for name in names]
