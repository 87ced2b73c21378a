"""The linear map to queries, keys and values, with a backward pass that moves each byte once.

One of the products (``common/products.py``). PyTorch gathers the three gradients into one tensor
with two copies and reads that once more for the gradient of the bias. Here one kernel does all
three. Rotary positions take one pass over what the linear map gave, and none backward, where that
kernel undoes them on the way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.products import autocast, has_own_backward, weight_gradient
from .common.registration import direct, is_eager
from .rotate import Rotation, join_rotated, rotate, rotate_heads

kernels = backend.import_kernels(__name__)


def qkv_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    num_heads: int,
    rotation: Rotation | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of multi-head attention from one linear map.

    Args:
        x: Tokens, shape (B, N, C).
        weight: Shape (3 C, C): queries, keys and values, each head by head.
        bias: Shape (3 C,), or none.
        num_heads: Number of heads H; divides C.
        rotation: By which queries and keys are turned. Default: none.

    Returns:
        Three tensors of shape (B, H, N, C / H), views into one of (B, N, 3 C) where a kernel turns
        them or nothing does.
    """
    if not has_own_backward(x):
        qkv = F.linear(x, weight, bias)
        in_place = backend.runs_kernels(x) and is_eager(x) and not torch.is_grad_enabled()
        return _split_and_rotate(qkv, num_heads, rotation, in_place)
    return _apply(autocast(x), weight, bias, num_heads, rotation)


def _split_and_rotate(
    qkv: Tensor, num_heads: int, rotation: Rotation | None, in_place: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if rotation is None or in_place and rotate_heads(qkv, num_heads, rotation):
        return split_heads(qkv, num_heads)
    q, k, v = split_heads(qkv, num_heads)
    return rotate(q, rotation), rotate(k, rotation), v


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of (B, H, N, C / H) into queries, keys and values side by side, (B, N, 3 C)."""
    batch, tokens, channels = qkv.shape
    qkv = qkv.view(batch, tokens, 3, num_heads, channels // (3 * num_heads))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return q, k, v


class _QKVLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, num_heads, rotation):
        used = autocast(weight)
        ctx.save_for_backward(x, weight, used)
        ctx.has_bias = bias is not None
        ctx.rotation = rotation  # tables that are kept anyway
        return _split_and_rotate(F.linear(x, used, bias), num_heads, rotation, in_place=True)

    @staticmethod
    def backward(ctx, *gradients):
        x, weight, used = ctx.saved_tensors
        with_bias = ctx.has_bias and ctx.needs_input_grad[2]
        if torch.is_grad_enabled() or x.dtype == torch.float64:
            # create_graph=True goes through the parameter itself; the kernel adds in float32.
            used = weight.to(x.dtype)
            if ctx.rotation is not None:
                back, (q, k, v) = ctx.rotation.inverse(), gradients
                gradients = rotate(q, back), rotate(k, back), v
            grad = torch.cat([g.transpose(1, 2).flatten(2).flatten(0, 1) for g in gradients], dim=1)
            grad_bias = grad.sum(dim=0) if with_bias else None
        elif ctx.rotation is not None:
            grad, grad_bias = join_rotated(*gradients, ctx.rotation, with_bias)
        else:
            grad, grad_bias = kernels.join_heads(*gradients, with_sum=with_bias)
        grad_x = grad.mm(used).view(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_bias, None, None


_apply = direct(_QKVLinear)
