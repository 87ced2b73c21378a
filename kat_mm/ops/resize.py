"""Bilinear resizing whose gradient is a gather: checks, dispatch, autograd.

PyTorch's gradient on a GPU adds with atomics: slow, and with other bits from run to run. Here each
position of the input adds up, in a fixed order, the positions of the output that it is part of.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend
from .operator import Operator

if backend.HAS_TRITON:
    from . import resize_triton as kernels

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear interpolation of maps, as ``torch.nn.functional.interpolate`` without antialiasing.

    Arithmetic is in float32 for half precision. On a GPU positions are exact fractions of integers,
    where PyTorch rounds them to float32. Same input, same bits, also of the gradient.
    Differentiable once.

    Args:
        x: Maps (B, C, h, w), any strides. float16, bfloat16, float32 or float64.
        size: Height H and width W of the result.
        align_corners: Whether the centres of the corner pixels of both maps coincide, instead of
            the corners of these pixels. Default: False.

    Returns:
        Tensor (B, C, H, W) of x's dtype, channels last in memory where x is (single
        pixels are), else contiguous.

    Raises:
        ValueError: x has not four dimensions, or a side is not positive or too long.
        TypeError: x is not a floating-point tensor.
    """
    check_maps('resize', 'x', x)
    size = check_size('resize', size)
    return _operator(x, size, align_corners)


def check_maps(operator: str, name: str, x: Tensor) -> None:
    """Raise for what are no maps (B, C, h, w)."""
    if x.dtype not in _FLOATS:
        raise TypeError(
            f'{operator}: {name} has dtype {x.dtype}; '
            'it must be float16, bfloat16, float32 or float64'
        )
    if x.dim() != 4:
        raise ValueError(f'{operator}: {name} is {tuple(x.shape)}; it must be (B, C, h, w)')
    check_size(operator, x.shape[2:], f'the last two dimensions of {name}')


def check_size(operator: str, size, name: str = 'size') -> tuple[int, int]:
    """``size`` as a tuple; raises where it is not two sides of 1 to 16384 pixels."""
    size = tuple(size)
    # Positions are fractions with numerators up to twice the product of two sides, in 32 bits.
    if len(size) != 2 or any(not 1 <= side <= 16384 for side in size):
        raise ValueError(f'{operator}: {name} are {size}; it takes two numbers of 1 to 16384')
    return size


def memory_format(x: Tensor) -> torch.memory_format:
    """What ``x`` is in memory, or nearest to; single pixels, which are both, are channels last."""
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format


def _forward(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if backend.runs_kernels(x):
        return kernels.forward(x, size, align_corners)
    y = F.interpolate(wide(x), size, mode='bilinear', align_corners=align_corners)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


def _backward(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if backend.runs_kernels(grad):
        return kernels.backward(grad, size, align_corners)
    grad_x = gradient(wide(grad), size, align_corners)
    return grad_x.to(grad.dtype).contiguous(memory_format=memory_format(grad))


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gradient(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """PyTorch's own gradient of maps of ``size``, which on a CPU is repeatable."""
    shape = (*grad.shape[:2], *size)
    return torch.ops.aten.upsample_bilinear2d_backward(grad, grad.shape[2:], shape, align_corners)


def empty(x: Tensor, size: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Maps of ``size`` in the dtype and memory format of ``x``, uninitialised."""
    return torch.empty(
        (*x.shape[:2], *size),
        dtype=dtype or x.dtype,
        device=x.device,
        memory_format=memory_format(x),
    )


def _setup_context(ctx, inputs, output):
    x, _, ctx.align_corners = inputs
    ctx.size = tuple(x.shape[2:])


def _formula(ctx, backward, grad):
    return backward(grad, ctx.size, ctx.align_corners), None, None


_operator = Operator(
    'resize',
    '(Tensor x, SymInt[] size, bool align_corners) -> Tensor',
    '(Tensor grad, SymInt[] size, bool align_corners) -> Tensor',
    forward=_forward,
    backward=_backward,
    empty=lambda x, size, _: empty(x, size),
    empty_gradient=lambda grad, size, _: empty(grad, size),
    setup_context=_setup_context,
    formula=_formula,
)
