"""Kernels in the programs that ``torch.compile`` makes.

PyTorch learns what a Triton kernel writes to from the kernel's intermediate code. It makes that
from the kernel's Python at each call in a program, several times over, which takes about half of a
first compiled step. Here it is asked once for each kernel, dtypes and constants; kernels of other
packages go on as they did.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._higher_order_ops import triton_kernel_wrap
from triton.runtime import Autotuner, JITFunction

# How the analysis is called: up to PyTorch 2.11 and in 2.14.
_ANALYSES = 'identify_mutated_tensors', 'identify_accessed_tensors'
_OPEN = torch.SymInt, torch.SymFloat, torch.SymBool, sympy.Expr

_kernels: set[JITFunction] = set()


def trace(
    kernel: JITFunction,
    programs: int,
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int | float],
    constants: dict[str, Any],
) -> None:
    """Put a launch into the program that is traced."""
    _kernels.add(kernel)
    _keep_analyses()
    torch.library.wrap_triton(kernel)[programs,](*tensors, *numbers, **constants)


@functools.cache
def _keep_analyses() -> None:
    """Once in a process. Where PyTorch has none of the functions, all is as without it."""
    for name in _ANALYSES:
        if hasattr(triton_kernel_wrap, name):
            setattr(triton_kernel_wrap, name, keep(getattr(triton_kernel_wrap, name)))


def keep(analyse: Callable) -> Callable:
    """PyTorch's analysis of (kernel, arguments by name, descriptors), once for what is alike."""
    found: dict[tuple, Any] = {}

    @functools.wraps(analyse)
    def kept(kernel: JITFunction | Autotuner, arguments: dict[str, Any], *descriptors):
        # wrap_triton puts options of the compiler, the number of warps, into an Autotuner.
        function = kernel.fn if isinstance(kernel, Autotuner) else kernel
        if function not in _kernels or any(descriptors):
            return analyse(kernel, arguments, *descriptors)
        key = function, *((name, _kind(value)) for name, value in arguments.items())
        if key not in found:
            found[key] = analyse(kernel, arguments, *descriptors)
        return found[key]

    return kept


def _kind(value: Any) -> Any:
    """All that the analysis knows of an argument."""
    if isinstance(value, _OPEN):  # it takes the same number for all of them
        return 'open'
    # Tensors, and what stands for them while they are lowered.
    dtype = getattr(value, 'dtype', None)
    return dtype if isinstance(dtype, torch.dtype) else (type(value), value)
