"""Linear map and group-rational function as one operator: fc1 and act2 of a GR-KAN.

On a GPU that can, the matrix product applies the function before it writes its result; elsewhere
the product and the function follow each other. Both round between the two, to what the backward
pass starts from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.checks import check_coefficients
from .common.dtypes import compute_dtype
from .common.products import autocast, weight_gradient
from .common.registration import Operator, is_exported
from .group_rational import group_rational
from .group_rational import kernels as rational_kernels
from .linear import linear

kernels = backend.import_kernels(__name__)


def linear_rational(
    x: Tensor, weight: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor
) -> Tensor:
    """``F(x @ weight.T + bias)``: a linear map, then the rational function of each channel group.

    The product is rounded to its dtype before the bias is added, in the function's arithmetic.

    Args:
        x: Shape (..., C_in).
        weight: Shape (C_out, C_in); cast to x's dtype, and both to that of autocast.
        bias: Shape (C_out,).
        numerator: Coefficients of F, as in ``group_rational``, for C_out channels.
        denominator: Those of its denominator.

    Returns:
        Shape (..., C_out), in the dtype of the linear map.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
        TypeError: An input is not a floating-point tensor.
    """
    _check(x, weight, bias, numerator, denominator)
    if not backend.runs_kernels(x) or is_exported():
        return group_rational(linear(x, weight, None), numerator, denominator, bias)
    tensors = autocast(x), weight, bias, numerator, denominator
    return _operator(*tensors, is_differentiated(*tensors))[0]


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked for, for which an operator has to keep what it needs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _check(x: Tensor, weight: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    channels = x.shape[-1] if x.dim() else None
    if weight.dim() != 2 or weight.shape[1] != channels or weight.device != x.device:
        raise ValueError(
            f'linear_rational: weight is {tuple(weight.shape)} on {weight.device}; '
            f'for x of {tuple(x.shape)} it must be (C_out, {channels}) on {x.device}'
        )
    if bias.shape != weight.shape[:1] or bias.device != x.device:
        raise ValueError(
            f'linear_rational: bias is {tuple(bias.shape)} on {bias.device}; '
            f'for weight of {tuple(weight.shape)} it must be ({len(weight)},) on {x.device}'
        )
    check_coefficients('linear_rational', bias, numerator, denominator)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result and, where it is kept, the product without the bias, else an empty tensor."""
    weight = weight.to(x.dtype)
    tiling = kernels.tiling_for(x, weight, numerator, denominator, keep)
    if tiling is not None:
        return kernels.forward(x, weight, bias, numerator, denominator, keep, tiling)
    hidden = F.linear(x, weight)
    y = rational_kernels.forward(hidden, numerator, denominator, bias)
    return y, hidden if keep else x.new_empty(0)


def _setup_context(ctx, inputs, output):
    *inputs, ctx.keep = inputs
    _, hidden = output
    ctx.mark_non_differentiable(hidden)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, hidden)


def _formula(ctx, backward, grad, _):
    if grad is None:
        return (None,) * 6
    check_kept('linear_rational', ctx.keep)
    weight = ctx.saved_tensors[1]
    need_x, need_weight = ctx.needs_input_grad[:2]
    grad_x, grad_weight, *others = backward(grad, *ctx.saved_tensors, need_x, need_weight)
    return grad_x, grad_weight.to(weight.dtype) if need_weight else None, *others, None


def check_kept(name: str, keep: bool) -> None:
    """Raise where a gradient is asked for of what was computed without a thought of it."""
    if not keep:
        raise RuntimeError(f'kat_mm::{name} was called with keep=False; a gradient needs keep=True')


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    hidden: Tensor,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x and weight, where they are needed, of bias and of the coefficients."""
    grad_hidden, *coefficients, grad_bias = rational_kernels.backward(
        grad, hidden, numerator, denominator, bias
    )
    grad_hidden = grad_hidden.flatten(0, -2)
    with torch.autocast('cuda', enabled=False):
        grad_x = grad_hidden.mm(weight.to(x.dtype)).view(x.shape) if need_x else None
        grad_weight = weight_gradient(grad_hidden, x) if need_weight else None
    return grad_x, grad_weight, grad_bias, *coefficients


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    hidden: Tensor,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, ...]:
    return (
        x.new_empty(x.shape) if need_x else None,
        x.new_empty(weight.shape, dtype=compute_dtype(x.dtype)) if need_weight else None,
        *(torch.empty_like(t) for t in (bias, numerator, denominator)),
    )


if kernels:
    _parameters = 'Tensor x, Tensor weight, Tensor bias, Tensor numerator, Tensor denominator'
    _operator = Operator(
        'linear_rational',
        f'({_parameters}, bool keep) -> (Tensor, Tensor)',
        forward=forward,
        fake=lambda x, weight, *others: kernels.empty(x, weight, others[-1]),
        backward_signature=f'(Tensor grad, {_parameters}, Tensor hidden, bool need_x,'
        ' bool need_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
        backward=_backward,
        backward_fake=_backward_fake,
        setup_context=_setup_context,
        formula=_formula,
    )
