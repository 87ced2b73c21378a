"""The second half of a KAT block as one node of the graph.

Residual addition, normalisation, act1, fc1, act2 and fc2 (KAT, section 4), each computed as
elsewhere; what is saved is the work of autograd, of casts, and of the host that drives them.
"""

import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .add_layer_norm import add_layer_norm, check, fused_dtype
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
) -> tuple[Tensor, Tensor]:
    """``total = x + scale * branch`` and ``fc2(act2(fc1(act1(LayerNorm(total)))))``.

    Args:
        x: Residual stream, shape (B, ..., C).
        branch: Added to x, of its shape; may be none.
        scale: Factor of each sample's branch, shape (B,); may be none.
        eps: Added to the variance.
        parameters: See ``FeedForwardParameters``.

    Returns:
        total and the result, both of x's shape; the result in the dtype of a linear map.
    """
    p = parameters
    check(x, p.norm_weight, p.norm_bias, branch, scale, p.numerator1, p.denominator1)
    dtype = fused_dtype(x, branch)
    if dtype is not None and has_own_backward(x):
        total, y = _FeedForward.apply(x, branch, scale, eps, dtype, *parameters)
        return (x if branch is None else total), y
    total, y = add_layer_norm(
        x, p.norm_weight, p.norm_bias, eps, branch, scale, p.numerator1, p.denominator1
    )
    y = group_rational(F.linear(y, p.weight1), p.numerator2, p.denominator2, p.bias1)
    return total, linear(y, p.weight2, p.bias2)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, branch, scale, eps, dtype, *parameters):
        p = FeedForwardParameters(*parameters)
        total, y, statistics = norm_kernels.forward(
            x,
            branch,
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
        ctx.save_for_backward(
            x if branch is None else total, statistics, scale, y, hidden, z, weight1, weight2, *p
        )
        return total, F.linear(z, weight2, p.bias2)

    @staticmethod
    def backward(ctx, grad_total, grad):
        total, statistics, scale, y, hidden, z, weight1, weight2, *parameters = ctx.saved_tensors
        p = FeedForwardParameters(*parameters)
        needed = FeedForwardParameters(*ctx.needs_input_grad[5:])
        # A backward pass that is called within autocast computes as one that is not.
        with torch.no_grad(), torch.autocast('cuda', enabled=False):
            if grad is None:
                grad = torch.zeros_like(y)
            incoming, grad = grad, grad.reshape(-1, grad.shape[-1])
            grad_weight2 = weight_gradient(grad, z) if needed.weight2 else None
            grad_bias2 = bias_gradient(grad) if needed.bias2 else None
            grad_hidden, *rational2, grad_bias1 = rational_kernels.backward(
                grad.mm(weight2).view(z.shape), hidden, p.numerator2, p.denominator2, p.bias1
            )
            grad_hidden = grad_hidden.flatten(0, -2)
            grad_x, grad_branch, grad_norm, *rational1 = norm_kernels.backward(
                None if ctx.branch_dtype is None else grad_total,
                grad_hidden.mm(weight1).view(y.shape),
                total,
                statistics,
                p.norm_weight,
                p.norm_bias,
                p.numerator1,
                p.denominator1,
                scale,
                ctx.branch_dtype,
            )
            if ctx.branch_dtype is None:
                grad_branch = None
            elif not grad_branch.numel():  # the same numbers
                grad_branch = grad_x
            gradients = (
                grad_x.to(ctx.x_dtype),
                grad_branch,
                None,
                None,
                None,
                *grad_norm.unbind(),
                *rational1,
                weight_gradient(grad_hidden, y) if needed.weight1 else None,
                grad_bias1,
                *rational2,
                grad_weight2,
                grad_bias2,
            )
        if torch.is_grad_enabled():  # create_graph=True
            return refuse_second_derivative(
                'feed_forward', (total, *parameters, incoming), gradients
            )
        return gradients
