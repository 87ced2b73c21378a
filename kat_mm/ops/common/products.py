"""Matrix products with a backward pass of ours: the second family of ``kat_mm.ops``.

Their forward pass is PyTorch's own, and so is everything where something traces or nothing is
differentiated: a compiler sees ordinary products. Else they are one node of the graph, whose
gradients of weights leave the product in float32 instead of being rounded to half precision and
cast back. Unlike operators they may be differentiated twice.
"""

import torch
from torch import Tensor

from . import backend
from .dtypes import HALF
from .registration import is_eager


def has_own_backward(x: Tensor) -> bool:
    """Whether products of ``x`` are differentiated here: on a GPU, where nothing traces."""
    return backend.runs_kernels(x) and torch.is_grad_enabled() and is_eager(x)


def autocast(tensor: Tensor) -> Tensor:
    """The tensor as a product on a GPU takes it: float64 stays what it is."""
    if not torch.is_autocast_enabled('cuda') or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype('cuda'))


def product_in_float32(a: Tensor, b: Tensor) -> Tensor:
    """Product of two matrices, or of two batches of them, in float32 at least.

    In their own dtype where it is to be differentiated again.
    """
    multiply = torch.mm if a.dim() == 2 else torch.bmm
    if a.dtype in HALF and not torch.is_grad_enabled():
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a, b)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad.T @ x`` for grad of (rows, C_out) and x of (..., C_in), in float32 at least."""
    return product_in_float32(grad.T, x.reshape(-1, x.shape[-1]))
