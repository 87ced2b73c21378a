"""The linear map to queries, keys and values, with a backward pass that moves each byte once.

One of the products (``common/products.py``). PyTorch gathers the three gradients into one tensor
with two copies and reads that once more for the gradient of the bias. Here one kernel does all
three.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.products import autocast, has_own_backward, weight_gradient
from .common.registration import direct

kernels = backend.import_kernels(__name__)


def qkv_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of multi-head attention from one linear map.

    Args:
        x: Tokens, shape (B, N, C).
        weight: Shape (3 C, C): queries, keys and values, each head by head.
        bias: Shape (3 C,), or none.
        num_heads: Number of heads H; divides C.

    Returns:
        Three views of shape (B, H, N, C / H) into one tensor of (B, N, 3 C).
    """
    if not has_own_backward(x):
        return split_heads(F.linear(x, weight, bias), num_heads)
    return _apply(autocast(x), weight, bias, num_heads)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of (B, H, N, C / H) into queries, keys and values side by side, (B, N, 3 C)."""
    batch, tokens, channels = qkv.shape
    qkv = qkv.view(batch, tokens, 3, num_heads, channels // (3 * num_heads))
    return qkv.permute(2, 0, 3, 1, 4).unbind()


class _QKVLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, num_heads):
        used = autocast(weight)
        ctx.save_for_backward(x, weight, used)
        ctx.has_bias = bias is not None
        return split_heads(F.linear(x, used, bias), num_heads)

    @staticmethod
    def backward(ctx, *gradients):
        x, weight, used = ctx.saved_tensors
        with_bias = ctx.has_bias and ctx.needs_input_grad[2]
        if torch.is_grad_enabled() or x.dtype == torch.float64:
            # create_graph=True goes through the parameter itself; the kernel adds in float32.
            used = weight.to(x.dtype)
            grad = torch.cat([g.transpose(1, 2).flatten(2).flatten(0, 1) for g in gradients], dim=1)
            grad_bias = grad.sum(dim=0) if with_bias else None
        else:
            grad, grad_bias = kernels.join_heads(*gradients, with_sum=with_bias)
        grad_x = grad.mm(used).view(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_bias, None


_apply = direct(_QKVLinear)
