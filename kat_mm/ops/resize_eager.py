"""Bilinear resizing in plain PyTorch, whose gradient on a CPU is repeatable."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.dtypes import wide


def forward(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """See ``resize``."""
    y = F.interpolate(wide(x), size, mode='bilinear', align_corners=align_corners)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


def backward(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Gradient of maps of ``size``; see ``resize``."""
    grad_x = gradient(wide(grad), size, align_corners)
    return grad_x.to(grad.dtype).contiguous(memory_format=memory_format(grad))


def gradient(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """The gradient of maps of ``size`` in the dtype of ``grad``, which a device may lack."""
    shape = (*grad.shape[:2], *size)
    return torch.ops.aten.upsample_bilinear2d_backward(grad, grad.shape[2:], shape, align_corners)


def memory_format(x: Tensor) -> torch.memory_format:
    """What ``x`` is in memory, or nearest to; single pixels, which are both, are channels last."""
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_maps(x: Tensor, size: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Maps of ``size`` in the dtype and memory format of ``x``, uninitialised."""
    return torch.empty(
        (*x.shape[:2], *size),
        dtype=dtype or x.dtype,
        device=x.device,
        memory_format=memory_format(x),
    )
