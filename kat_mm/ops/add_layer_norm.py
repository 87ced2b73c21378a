"""Residual addition, layer normalisation and rational function as one PyTorch operator.

What stands between two linear maps of a transformer block: on a GPU one kernel reads the residual
stream and the branch once and writes the sum and the next linear map's input once. Elsewhere
PyTorch's own functions and ``group_rational`` compute it, and their own gradients: there is no
eager file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.checks import check_coefficients
from .common.registration import Operator, is_exported
from .group_rational import group_rational

kernels = backend.import_kernels(__name__)


def add_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    branch: Tensor | None = None,
    scale: Tensor | None = None,
    numerator: Tensor | None = None,
    denominator: Tensor | None = None,
    branch_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``total = x + scale * (branch + branch_bias)`` and ``F(LayerNorm(total))``.

    Args:
        x: Residual stream, shape (B, ..., C).
        weight: Scale of the normalisation, shape (C,).
        bias: Shift of the normalisation, shape (C,).
        eps: Added to the variance.
        branch: Added to x, of its shape. Default: none, total is x.
        scale: Factor of each sample's branch, shape (B,): stochastic depth. Default: 1.
        numerator: Coefficients of the group-rational function F, as in ``group_rational``.
            Default: none, F is the identity.
        denominator: Those of its denominator; given with ``numerator``.
        branch_bias: Added to the branch, shape (C,): the bias of the linear map that it comes from.
            Default: none.

    Returns:
        total, in the widest dtype of x and branch, and the result, in the same dtype, or in that of
        autocast where the fused kernel writes it for a linear map that would cast it anyway.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
    """
    check(x, weight, bias, branch, scale, numerator, denominator, branch_bias)
    dtype = fused_dtype(x, branch)
    if dtype is not None:
        total, y, _ = _operator(
            x, branch, branch_bias, scale, weight, bias, numerator, denominator, eps, dtype
        )
        return (x if branch is None else total), y

    x = add_branch(x, branch, scale, branch_bias)
    y = F.layer_norm(x, weight.shape, weight, bias, eps)
    if numerator is None or denominator is None:
        return x, y
    return x, group_rational(y, numerator, denominator)


def add_branch(
    x: Tensor, branch: Tensor | None, scale: Tensor | None, branch_bias: Tensor | None = None
) -> Tensor:
    """``x + scale * (branch + branch_bias)``, with one factor for each sample."""
    if branch is None:
        return x
    branch = end_branch(x, branch, branch_bias)
    if scale is not None:
        branch = branch * scale.to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))
    return x + branch


def end_branch(x: Tensor, branch: Tensor, bias: Tensor | None) -> Tensor:
    """``branch + bias``, in x's precision at least: the gradient of the bias is a long sum."""
    if bias is None:
        return branch
    return branch + bias.to(torch.promote_types(x.dtype, branch.dtype))


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    branch_bias: Tensor | None,
) -> None:
    """Raise a ValueError for tensors that kernels would read beyond their ends."""
    channels = x.shape[-1:]
    if branch is None and branch_bias is not None:
        raise ValueError('add_layer_norm: branch_bias is given without the branch it belongs to')
    for name, tensor, shape in (
        ('weight', weight, channels),
        ('bias', bias, channels),
        ('branch', branch, x.shape),
        ('branch_bias', branch_bias, channels),
        ('scale', scale, x.shape[:1]),
    ):
        if tensor is not None and (tensor.shape != shape or tensor.device != x.device):
            raise ValueError(
                f'add_layer_norm: {name} is {tuple(tensor.shape)} on {tensor.device}; '
                f'for x of {tuple(x.shape)} it must be {tuple(shape)} on {x.device}'
            )
    if (numerator is None) != (denominator is None):
        raise ValueError('add_layer_norm: numerator and denominator come together')
    if numerator is not None and denominator is not None:
        check_coefficients('add_layer_norm', x, numerator, denominator)


def fused_dtype(x: Tensor, branch: Tensor | None) -> torch.dtype | None:
    """The dtype that the fused kernel gives its result, or None where it does not serve."""
    if not backend.runs_kernels(x) or not kernels.supports(x, branch) or is_exported():
        return None
    if torch.is_autocast_enabled('cuda'):
        return torch.get_autocast_dtype('cuda')
    return x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)


def _setup_context(ctx, inputs, output):
    x, branch, branch_bias, scale, weight, bias, numerator, denominator, _, _ = inputs
    total, _, statistics = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(statistics)
    keep_dtypes(ctx, x, branch, branch_bias)
    total = x if branch is None else total
    ctx.save_for_backward(total, statistics, weight, bias, numerator, denominator, scale)


def _formula(ctx, backward, grad_total, grad, *_):
    total, statistics, weight, bias, numerator, denominator, scale = ctx.saved_tensors
    *gradients, grad_numerator, grad_denominator = backward(
        None if ctx.branch_dtype is None else grad_total,
        torch.zeros_like(total) if grad is None else grad,
        total,
        statistics,
        weight,
        bias,
        numerator,
        denominator,
        scale,
        ctx.branch_dtype,
        ctx.branch_bias_dtype is not None,
    )
    grad_x, grad_branch, grad_branch_bias, grad_weight, grad_bias = by_input(ctx, *gradients)
    return (
        grad_x,
        grad_branch,
        grad_branch_bias,
        None,
        grad_weight.to(weight.dtype),
        grad_bias.to(bias.dtype),
        grad_numerator,
        grad_denominator,
        None,
        None,
    )


def keep_dtypes(ctx, x: Tensor, branch: Tensor | None, branch_bias: Tensor | None) -> None:
    """Note what ``by_input`` asks for."""
    ctx.x_dtype, ctx.branch_dtype = x.dtype, None if branch is None else branch.dtype
    ctx.branch_bias_dtype = None if branch_bias is None else branch_bias.dtype


def by_input(ctx, grad_x: Tensor, vectors: Tensor, grad_branch: Tensor | None) -> tuple:
    """Gradients of x, branch, branch_bias, weight and bias, from the first three of the kernels'.

    A branch without a gradient of its own has that of x.
    """
    grad_weight, grad_bias, *others = vectors.unbind()
    return (
        grad_x.to(ctx.x_dtype),
        None if ctx.branch_dtype is None else grad_x if grad_branch is None else grad_branch,
        None if ctx.branch_bias_dtype is None else others[0].to(ctx.branch_bias_dtype),
        grad_weight,
        grad_bias,
    )


if kernels:
    _operator = Operator(
        'add_layer_norm',
        '(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor? scale, Tensor weight, Tensor bias,'
        ' Tensor? numerator, Tensor? denominator, float eps, ScalarType dtype)'
        ' -> (Tensor, Tensor, Tensor)',
        forward=kernels.forward,
        fake=kernels.empty_outputs,
        backward_signature='(Tensor? grad_total, Tensor grad, Tensor total, Tensor statistics,'
        ' Tensor weight, Tensor bias, Tensor? numerator, Tensor? denominator, Tensor? scale,'
        ' ScalarType? branch_dtype, bool has_branch_bias)'
        ' -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
        backward=kernels.backward,
        backward_fake=kernels.empty_gradients,
        setup_context=_setup_context,
        formula=_formula,
    )
