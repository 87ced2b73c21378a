"""The second half of a KAT block as one node of the graph.

Residual addition, normalisation, act1, fc1, act2 and fc2 (KAT, section 4), each computed as
elsewhere; what is saved is the work of autograd, of casts, and of the host that drives them.
"""

import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .add_layer_norm import add_layer_norm, by_role, check, fused_dtype
from .group_rational import group_rational
from .linear import bias_gradient, has_own_backward, linear, weight_gradient
from .operator import refuse_second_derivative

if importlib.util.find_spec('triton') is not None:
    from . import add_layer_norm_triton as norm_kernels
    from . import group_rational_triton as rational_kernels


class FeedForwardParameters(NamedTuple):
    """Parameters of normalisation, act1, fc1, act2 and fc2, as their modules hold them."""

    norm_weight: Tensor
    norm_bias: Tensor
    numerator1: Tensor
    denominator1: Tensor
    weight1: Tensor
    bias1: Tensor
    numerator2: Tensor
    denominator2: Tensor
    weight2: Tensor
    bias2: Tensor


def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    eps: float,
    parameters: FeedForwardParameters,
    branch_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``total = x + scale * (branch + branch_bias)``, ``fc2(act2(fc1(act1(LayerNorm(total)))))``.

    Args:
        x: Residual stream, shape (B, ..., C).
        branch: Added to x, of its shape; may be none.
        scale: Factor of each sample's branch, shape (B,); may be none.
        eps: Added to the variance.
        parameters: See ``FeedForwardParameters``.
        branch_bias: Added to the branch, shape (C,); may be none.

    Returns:
        total and the result, both of x's shape; the result in the dtype of a linear map.
    """
    p = parameters
    norm = p.norm_weight, p.norm_bias
    act1 = p.numerator1, p.denominator1
    check(x, *norm, branch, scale, *act1, branch_bias)
    dtype = fused_dtype(x, branch)
    if dtype is not None and has_own_backward(x):
        total, y = _FeedForward.apply(x, branch, branch_bias, scale, eps, dtype, *parameters)
        return (x if branch is None else total), y
    total, y = add_layer_norm(x, *norm, eps, branch, scale, *act1, branch_bias)
    y = group_rational(F.linear(y, p.weight1), p.numerator2, p.denominator2, p.bias1)
    return total, linear(y, p.weight2, p.bias2)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, branch, branch_bias, scale, eps, dtype, *parameters):
        p = FeedForwardParameters(*parameters)
        total, y, statistics = norm_kernels.forward(
            x,
            branch,
            branch_bias,
            scale,
            p.norm_weight,
            p.norm_bias,
            p.numerator1,
            p.denominator1,
            eps,
            dtype,
        )
        weight1, weight2 = p.weight1.to(dtype), p.weight2.to(dtype)
        hidden = F.linear(y, weight1)
        z = rational_kernels.forward(hidden, p.numerator2, p.denominator2, p.bias1)
        ctx.set_materialize_grads(False)
        ctx.x_dtype, ctx.branch_dtype = x.dtype, None if branch is None else branch.dtype
        ctx.branch_bias_dtype = None if branch_bias is None else branch_bias.dtype
        # What the activations gave is computed again: both kernels of the gradient can write it.
        ctx.dtype = dtype
        ctx.save_for_backward(
            x if branch is None else total, statistics, scale, hidden, weight1, weight2, *p
        )
        return total, F.linear(z, weight2, p.bias2)

    @staticmethod
    def backward(ctx, grad_total, grad):
        tensors, parameters = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        p = FeedForwardParameters(*parameters)
        needed = FeedForwardParameters(*ctx.needs_input_grad[6:])
        if torch.is_grad_enabled() or torch.is_autocast_enabled('cuda'):
            # create_graph=True, or called within autocast: it computes as one that is not.
            with torch.no_grad(), torch.autocast('cuda', enabled=False):
                gradients = _gradients(ctx, needed, p, grad_total, grad, *tensors)
            if torch.is_grad_enabled():
                inputs = (tensors[0], *parameters, grad)
                return refuse_second_derivative('feed_forward', inputs, gradients)
            return gradients
        return _gradients(ctx, needed, p, grad_total, grad, *tensors)


def _gradients(
    ctx, needed, p, grad_total, grad, total, statistics, scale, hidden, weight1, weight2
):
    if grad is None:
        grad = torch.zeros_like(total, dtype=ctx.dtype)
    grad = grad.reshape(-1, grad.shape[-1])
    hidden = hidden.flatten(0, -2)
    grad_bias2 = bias_gradient(grad) if needed.bias2 else None
    z, grad_hidden, *rational2, grad_bias1 = rational_kernels.backward_in_place(
        grad.mm(weight2), hidden, p.numerator2, p.denominator2, p.bias1
    )
    grad_weight2 = weight_gradient(grad, z) if needed.weight2 else None
    y = torch.empty_like(total, dtype=ctx.dtype, memory_format=torch.contiguous_format)
    gradients = norm_kernels.backward(
        None if ctx.branch_dtype is None else grad_total,
        grad_hidden.mm(weight1),
        total,
        statistics,
        p.norm_weight,
        p.norm_bias,
        p.numerator1,
        p.denominator1,
        scale,
        ctx.branch_dtype,
        ctx.branch_bias_dtype is not None,
        y,
    )
    grad_x, (*grad_norm, grad_branch_bias), grad_branch, *rational1 = by_role(gradients, True)
    return (
        grad_x.to(ctx.x_dtype),
        None if ctx.branch_dtype is None else grad_branch,
        None if grad_branch_bias is None else grad_branch_bias.to(ctx.branch_bias_dtype),
        None,
        None,
        None,
        *grad_norm,
        *rational1,
        weight_gradient(grad_hidden, y) if needed.weight1 else None,
        grad_bias1,
        *rational2,
        grad_weight2,
        grad_bias2,
    )
