"""Bilinear resizing whose gradient is a gather: checks, dispatch, autograd.

PyTorch's gradient on a GPU adds with atomics: slow, and with other bits from run to run. Here each
position of the input adds up, in a fixed order, the positions of the output that it is part of.
"""

from types import ModuleType

from torch import Tensor

from . import resize_eager as eager
from .common import backend
from .common.checks import check_maps, check_size
from .common.registration import Operator

kernels = backend.import_kernels(__name__)


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


def _module(x: Tensor) -> ModuleType:
    return kernels if backend.runs_kernels(x) else eager


def _forward(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return _module(x).forward(x, size, align_corners)


def _backward(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return _module(grad).backward(grad, size, align_corners)


def _fake(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return eager.empty_maps(x, size)


def _setup_context(ctx, inputs, output):
    x, _, ctx.align_corners = inputs
    ctx.size = tuple(x.shape[2:])


def _formula(ctx, backward, grad):
    return backward(grad, ctx.size, ctx.align_corners), None, None


_operator = Operator(
    'resize',
    '(Tensor x, SymInt[] size, bool align_corners) -> Tensor',
    forward=_forward,
    fake=_fake,
    backward_signature='(Tensor grad, SymInt[] size, bool align_corners) -> Tensor',
    backward=_backward,
    backward_fake=_fake,
    setup_context=_setup_context,
    formula=_formula,
)
