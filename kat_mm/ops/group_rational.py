"""The group-rational function as a PyTorch operator: checks, dispatch, autograd, compilation.

One file each: this one, ``group_rational_eager.py`` (any device) and ``group_rational_triton.py``
(CUDA). The operator saves nothing for backward but its inputs.
"""

import importlib.util

import torch
from torch import Tensor

from . import group_rational_eager as eager

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def group_rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Apply a learnable rational function to each channel group (GR-KAN; KAT, section 4.2).

    Channel ``c`` of ``C`` uses row ``c // (C / Gn)`` of ``numerator`` and row ``c // (C / Gd)`` of
    ``denominator``::

        F(x) = (a0 + a1 x + ... + am x^m) / (1 + |b1||x| + ... + |bn||x|^n)

    The denominator is at least 1, so F has no poles. The gradient takes ``sign(0) = +1`` for ``b``,
    and for ``x`` its sign bit: +1 at 0, -1 at -0.0. Arithmetic is in float32 for half-precision
    input and in the widest input dtype otherwise. F is differentiable once.

    Args:
        x: Input of shape (..., C), channels last, any strides and any number of leading
            dimensions, also none. float16, bfloat16, float32 or float64.
        numerator: a0 to am of each group, shape (Gn, m + 1); Gn divides C. Typically 1, G or C.
        denominator: b1 to bn of each group, shape (Gd, n); Gd divides C. ``n`` may be 0.

    Returns:
        Tensor of x's shape and dtype, contiguous.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
        TypeError: An input is not a floating-point tensor.
    """
    _check(x, numerator, denominator)
    return torch.ops.kat_mm.group_rational(x, numerator, denominator)


def _check(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    for name, tensor in (('x', x), ('numerator', numerator), ('denominator', denominator)):
        if tensor.dtype not in _FLOATS:
            raise TypeError(
                f'group_rational: {name} has dtype {tensor.dtype}; '
                'it must be float16, bfloat16, float32 or float64'
            )
        if tensor.device != x.device:
            raise ValueError(
                f'group_rational: {name} is on {tensor.device} and x on {x.device}; '
                'move them to one device'
            )
    if x.dim() == 0:
        raise ValueError('group_rational: x is a scalar; it needs a channel dimension, (..., C)')
    for name, tensor in (('numerator', numerator), ('denominator', denominator)):
        if tensor.dim() != 2:
            raise ValueError(
                f'group_rational: {name} has shape {tuple(tensor.shape)}; '
                'it must have two dimensions, (groups, coefficients)'
            )
        channels, groups = x.shape[-1], tensor.shape[0]
        if groups == 0 or channels % groups:
            raise ValueError(
                f'group_rational: {channels} channels cannot be divided into the {groups} groups '
                f'of {name}; the number of groups must divide the number of channels'
            )
    if numerator.shape[1] == 0:
        raise ValueError('group_rational: numerator has no coefficients; it needs at least a0')


if importlib.util.find_spec('triton') is not None:
    from . import group_rational_triton as device_kernels
else:  # platforms for which there is no Triton
    device_kernels = eager


@torch.library.custom_op('kat_mm::group_rational', mutates_args=())
def _group_rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    return eager.forward(x, numerator, denominator)


@torch.library.custom_op('kat_mm::group_rational_backward', mutates_args=())
def _group_rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return eager.backward(grad, x, numerator, denominator)


@_group_rational.register_kernel('cuda')
def _(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    return device_kernels.forward(x, numerator, denominator)


@_group_rational_backward.register_kernel('cuda')
def _(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return device_kernels.backward(grad, x, numerator, denominator)


@_group_rational.register_fake
def _(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_group_rational_backward.register_fake
def _(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(numerator), torch.empty_like(denominator)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return torch.ops.kat_mm.group_rational_backward(grad, *ctx.saved_tensors)


_group_rational.register_autograd(_backward, setup_context=_setup_context)
