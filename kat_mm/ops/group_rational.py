"""The group-rational function as a PyTorch operator: checks, dispatch, autograd, compilation.

One file each: this one, ``group_rational_eager.py`` (any device), ``group_rational_triton.py``
(CUDA) and ``group_rational_standard.py`` (exported programs). The operator saves nothing for
backward but its inputs.
"""

import torch
from torch import Tensor
from torch._decomp import register_decomposition

from . import group_rational_eager as eager
from . import group_rational_standard as standard
from .common import backend
from .common.checks import check_coefficients, check_device, check_floating
from .common.registration import Operator

kernels = backend.import_kernels(__name__)


def group_rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None = None,
    channels_first: bool = False,
) -> Tensor:
    """Apply a learnable rational function to each channel group (GR-KAN; KAT, section 4.2).

    Channel ``c`` of ``C`` uses row ``c // (C / Gn)`` of ``numerator`` and row ``c // (C / Gd)`` of
    ``denominator``::

        F(x) = (a0 + a1 x + ... + am x^m) / (1 + |b1||x| + ... + |bn||x|^n)

    The denominator is at least 1, so F has no poles. The gradient takes ``sign(0) = +1`` for ``b``,
    and for ``x`` its sign bit: +1 at 0, -1 at -0.0. Arithmetic is in float32 for half-precision
    input and in the widest dtype of x and the coefficients otherwise; in float64 for degrees above
    9, whose powers leave float32's range. F is differentiable once, in reverse mode.

    Where ``|x|^m``, ``|x|^n``, P and Q are all below 1e37 (1e307 in float64), each result is finite
    whose own value its dtype can hold: F, the gradient of x, and each element's share in the
    gradients of the coefficients. With coefficients of about 1 and degrees (5, 4), as in the
    packaged fits, that is so up to ``|x|`` = 65504 in float16, its largest number, 2e7 in bfloat16
    and float32, and 2e61 in float64. The shares, for an incoming gradient of 1, are up to ``|x|^m``
    and ``|F| |x|^n``: more than float16 holds from ``|x|`` = 10 on, so coefficients belong in
    float32. Beyond, P overflows and F is infinite or NaN, or 0 where Q alone overflows.

    An infinite or NaN x gives NaN, in F and in its gradient, and gradients of the coefficients of
    its groups that are not finite (a1 and b1 on); other elements and groups are as without it.

    Args:
        x: Input of shape (..., C), any strides and any number of leading dimensions, also none.
            float16, bfloat16, float32 or float64. Both memory layouts of images, channels next to
            each other and channels apart, are read as they lie.
        numerator: a0 to am of each group, shape (Gn, m + 1); Gn divides C. Typically 1, G or C.
        denominator: b1 to bn of each group, shape (Gd, n); Gd divides C. ``n`` may be 0.
        bias: Added to x first, shape (C,). Its gradient comes with that of x, in one pass.
        channels_first: x is (B, C, ...) instead of (..., C). Default: False.

    Returns:
        Tensor of x's shape and dtype, in x's memory layout where that is one of the two above,
        else contiguous.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
        TypeError: An input is not a floating-point tensor.
    """
    if channels_first:
        if x.dim() < 2:
            raise ValueError(
                f'group_rational: x has shape {tuple(x.shape)}; '
                'with channels_first it must have at least two dimensions, (B, C, ...)'
            )
        x = x.movedim(1, -1)
    _check(x, numerator, denominator, bias)
    y = _operator(x, numerator, denominator, bias)
    return y.movedim(-1, 1) if channels_first else y


def _check(x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None) -> None:
    if x.dim() == 0:
        raise ValueError('group_rational: x is a scalar; it needs a channel dimension, (..., C)')
    check_coefficients('group_rational', x, numerator, denominator)
    if bias is not None:
        check_floating('group_rational', 'bias', bias)
        check_device('group_rational', 'bias', bias, 'x', x)
        if bias.shape != x.shape[-1:]:
            raise ValueError(
                f'group_rational: bias has shape {tuple(bias.shape)}; '
                f'it must have one number for each of the {x.shape[-1]} channels'
            )


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None) -> Tensor:
    return (kernels if backend.runs_kernels(x) else eager).forward(x, numerator, denominator, bias)


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    return (kernels if backend.runs_kernels(x) else eager).backward(
        grad, x, numerator, denominator, bias
    )


def _backward_fake(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    return (
        eager.empty_output(x),
        torch.empty_like(numerator, memory_format=torch.contiguous_format),
        torch.empty_like(denominator, memory_format=torch.contiguous_format),
        None if bias is None else torch.empty_like(bias),
    )


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _formula(ctx, backward, grad):
    return backward(grad, *ctx.saved_tensors)


_operator = Operator(
    'group_rational',
    '(Tensor x, Tensor numerator, Tensor denominator, Tensor? bias) -> Tensor',
    forward=_forward,
    fake=lambda x, *_: eager.empty_output(x),
    backward_signature='(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, Tensor? bias)'
    ' -> (Tensor, Tensor, Tensor, Tensor)',
    backward=_backward,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    formula=_formula,
)
register_decomposition(torch.ops.kat_mm.group_rational.default)(standard.group_rational)
