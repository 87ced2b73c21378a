"""The linear map to queries, keys and values, with a backward pass that moves each byte once.

PyTorch gathers the three gradients into one tensor with two copies and reads that once more for the
gradient of the bias. Here one kernel does all three.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from .library import is_eager

if importlib.util.find_spec('triton') is not None:
    from . import qkv_linear_triton as kernels
else:  # platforms for which there is no Triton
    kernels = None


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
    if kernels is None or not x.is_cuda or not torch.is_grad_enabled() or not is_eager(x):
        return split_heads(F.linear(x, weight, bias), num_heads)
    if torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        x, weight, bias = (t if t is None else t.to(dtype) for t in (x, weight, bias))
    return _QKVLinear.apply(x, weight, bias, num_heads)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of (B, H, N, C / H) into queries, keys and values side by side, (B, N, 3 C)."""
    batch, tokens, channels = qkv.shape
    qkv = qkv.view(batch, tokens, 3, num_heads, channels // (3 * num_heads))
    return qkv.permute(2, 0, 3, 1, 4).unbind()


class _QKVLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, num_heads):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return split_heads(F.linear(x, weight, bias), num_heads)

    @staticmethod
    def backward(ctx, *gradients):
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            grad = torch.cat([g.transpose(1, 2).flatten(2).flatten(0, 1) for g in gradients], dim=1)
            grad_bias = grad.sum(dim=0) if ctx.has_bias else None
        else:
            grad, grad_bias = kernels.join_heads(*gradients, with_sum=ctx.has_bias)
        grad_x = grad.mm(weight).view(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = grad.T.mm(x.flatten(0, 1)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_bias, None
