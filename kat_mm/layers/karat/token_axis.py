import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_token_axis(
    weight: Tensor,
    dim: int,
    from_grid: tuple[int, int],
    to_grid: tuple[int, int],
    num_extra_tokens: int,
) -> Tensor:
    """Interpolate weights that belong to tokens bilinearly from one token grid to another.

    What is summed over tokens keeps its magnitude: weights of patches are scaled by the ratio of
    their numbers. Extra tokens (class token) keep their weights.

    Args:
        weight: Any shape, with num_extra_tokens + H * W along ``dim``, extra tokens first.
        dim: The axis of the tokens.
        from_grid: (H, W) in tokens.
        to_grid: (H', W') in tokens.
        num_extra_tokens: Tokens apart from the grid.

    Returns:
        The same shape, with num_extra_tokens + H' * W' along ``dim``.
    """
    weight = weight.movedim(dim, -1)
    extra, patches = weight.tensor_split([num_extra_tokens], dim=-1)
    images = patches.reshape(1, -1, *from_grid)
    images = F.interpolate(images, size=to_grid, mode='bilinear', antialias=True)
    patches = images.reshape(*patches.shape[:-1], -1) * (math.prod(from_grid) / math.prod(to_grid))
    return torch.cat([extra, patches], dim=-1).movedim(-1, dim)
