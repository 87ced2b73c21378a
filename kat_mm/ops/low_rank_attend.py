"""The second half of low-rank attention: weights of rank r times values.

One of the products (``common/products.py``): what is saved is the work of autograd, and a copy of
the values in memory.
"""

import torch
from torch import Tensor

from .common.products import autocast, has_own_backward, product_in_float32
from .common.registration import direct


def low_rank_attend(hidden: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    """``hidden @ weight^T @ v`` without the N x N weights of attention.

    Args:
        hidden: First factor of the weights, shape (B, heads, M, r).
        weight: Second factor, shape (heads, N, r).
        v: Values, shape (B, heads, N, d).

    Returns:
        (B, heads, M, d).
    """
    if not has_own_backward(v):
        # einsum makes one large product per head, and not one small one per head and image.
        return hidden @ torch.einsum('hnr,bhnd->bhrd', weight, v)
    return _apply(autocast(hidden), weight, autocast(v))


def _by_head(x: Tensor) -> Tensor:
    """(B, heads, n, d) to (heads, n, B * d)."""
    return x.permute(1, 2, 0, 3).flatten(2)


def _by_image(x: Tensor, like: Tensor) -> Tensor:
    """(heads, n, B * d) to a view (B, heads, n, d), of B and d as ``like`` has them."""
    return x.unflatten(2, (len(like), like.shape[-1])).permute(2, 0, 1, 3)


class _LowRankAttend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, v):
        used = autocast(weight)
        inner = _by_image(used.mT.bmm(_by_head(v)), v)
        ctx.save_for_backward(hidden, weight, v, used, inner)
        return hidden @ inner

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, v, used, inner = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: through the inputs themselves
            used = weight.to(v.dtype)
            inner = _by_image(used.mT.bmm(_by_head(v)), v)
        grad = grad.contiguous()  # else both products would copy it
        grad_inner = _by_head(hidden.mT @ grad)
        grad_hidden = grad @ inner.mT if ctx.needs_input_grad[0] else None
        grad_weight = grad_v = None
        if ctx.needs_input_grad[1]:
            grad_weight = product_in_float32(_by_head(v), grad_inner.mT)
        if ctx.needs_input_grad[2]:
            grad_v = _by_image(used.bmm(grad_inner), v)
        return grad_hidden, grad_weight, grad_v


_apply = direct(_LowRankAttend)
