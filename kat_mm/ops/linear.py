"""Linear maps under autocast, with a cheaper backward pass than PyTorch's.

One of the products (``common/products.py``). The gradient of the bias takes one fast pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.products import autocast, has_own_backward, weight_gradient
from .common.registration import direct

kernels = backend.import_kernels(__name__)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear`` for x of (..., C_in), weight of (C_out, C_in)."""
    if not has_own_backward(x):
        return F.linear(x, weight, bias)
    return _apply(autocast(x), weight, bias)


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
        grad_bias = _bias_gradient(grad) if ctx.has_bias and ctx.needs_input_grad[2] else None
        grad_x = grad.mm(used).view(x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias


_apply = direct(_Linear)


def _bias_gradient(grad: Tensor) -> Tensor:
    """Sum over the rows of (rows, C_out)."""
    if grad.dtype == torch.float64 or torch.is_grad_enabled():  # create_graph=True
        return grad.sum(dim=0)
    return kernels.column_sum(grad.contiguous())
