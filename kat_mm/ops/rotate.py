"""Turning queries and keys by their positions: plain, and for the linear map that makes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from .common import backend

kernels = backend.import_kernels(__name__)


class Rotation(NamedTuple):
    """Angles of the d / 2 planes that the d channels of a head make.

    Tables are in float64 for float64, else in float32, in which half types are turned.
    """

    cos: Tensor
    """(N, d / 2), or (windows, 1, N, d / 2) where the first dimension of what is turned has the
    windows of an image one after the other."""
    sin: Tensor
    halves: bool
    """Plane i is channel i and i + d / 2; else 2 i and 2 i + 1."""

    def inverse(self) -> 'Rotation':
        """The same, backwards."""
        return self._replace(sin=-self.sin)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys (B, heads, N, d), turned: the same shape and dtype."""
    cos, sin, halves = rotation
    turned = x if cos.dim() == 2 else x.unflatten(0, (-1, cos.shape[0]))
    first, second = turned.chunk(2, -1) if halves else (turned[..., ::2], turned[..., 1::2])
    planes = first * cos - second * sin, second * cos + first * sin
    turned = torch.cat(planes, dim=-1) if halves else torch.stack(planes, dim=-1)
    return turned.reshape(x.shape).to(x.dtype)


def rotate_heads(qkv: Tensor, num_heads: int, rotation: Rotation) -> bool:
    """Turn queries and keys of (B, N, 3 C), as the linear map gives them, in place.

    Returns:
        Whether that was done: kernels compute in float32.
    """
    if qkv.dtype == torch.float64:
        return False
    kernels.rotate_in_place(qkv, num_heads, *rotation)
    return True


def join_rotated(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, with_sum: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of turned queries and keys, and of values, (B, heads, N, d) each, in one tensor.

    Returns:
        (B N, 3 heads d), with the rotation undone, and its sum over the rows, if asked for.
    """
    return kernels.join_rotated(q, k, v, *rotation, with_sum)
