"""Linear maps under autocast, with a cheaper backward pass than PyTorch's.

Gradients of weights leave the matrix product in the parameter's dtype instead of being rounded to
half precision and cast back, and that of the bias takes one fast pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend
from .operator import direct, is_eager

if backend.HAS_TRITON:
    from . import linear_triton as kernels

_HALF = (torch.float16, torch.bfloat16)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear`` for x of (..., C_in), weight of (C_out, C_in)."""
    if not has_own_backward(x):
        return F.linear(x, weight, bias)
    return _apply(autocast(x), weight, bias)


def has_own_backward(x: Tensor) -> bool:
    """Whether linear maps of ``x`` are differentiated here: on a GPU, where nothing traces."""
    return backend.runs_kernels(x) and torch.is_grad_enabled() and is_eager(x)


def autocast(tensor: Tensor) -> Tensor:
    """The tensor as a linear map on a GPU takes it: float64 stays what it is."""
    if not torch.is_autocast_enabled('cuda') or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype('cuda'))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        used = autocast(weight)
        ctx.save_for_backward(x, weight, used)
        ctx.has_bias = bias is not None
        return F.linear(x, used, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight, used = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: through the parameter itself
            used = weight.to(x.dtype)
        grad = grad.reshape(-1, grad.shape[-1])
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        grad_bias = bias_gradient(grad) if ctx.has_bias and ctx.needs_input_grad[2] else None
        grad_x = grad.mm(used).view(x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias


_apply = direct(_Linear)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad.T @ x`` for grad of (rows, C_out) and x of (..., C_in), in float32 at least."""
    return product_in_float32(grad.T, x.reshape(-1, x.shape[-1]))


def product_in_float32(a: Tensor, b: Tensor) -> Tensor:
    """Product of two matrices, or of two batches of them, in float32 at least.

    In their own dtype where it is to be differentiated again.
    """
    multiply = torch.mm if a.dim() == 2 else torch.bmm
    if a.dtype in _HALF and not torch.is_grad_enabled():
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a, b)


def bias_gradient(grad: Tensor) -> Tensor:
    """Sum over the rows of (rows, C_out)."""
    if grad.dtype == torch.float64 or torch.is_grad_enabled():  # create_graph=True
        return grad.sum(dim=0)
    return kernels.column_sum(grad.contiguous())
