import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(
    pos_embed: Tensor, from_grid: tuple[int, int], to_grid: tuple[int, int], num_extra_tokens: int
) -> Tensor:
    """Resize a position embedding bicubically from one token grid to another.

    Args:
        pos_embed: (1, num_extra_tokens + H * W, C), extra tokens (class token) first.
        from_grid: (H, W) in tokens.
        to_grid: (H', W') in tokens.
        num_extra_tokens: Tokens apart from the grid, which are kept as they are.

    Returns:
        (1, num_extra_tokens + H' * W', C), in the dtype of ``pos_embed``.
    """
    if from_grid == to_grid:
        return pos_embed
    extra, grid = pos_embed.tensor_split([num_extra_tokens], dim=1)
    grid = grid.unflatten(1, from_grid).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), size=to_grid, mode='bicubic', align_corners=False)
    resized = resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat([extra, resized], dim=1)


def find_grid(
    num_patches: int,
    noted: Sequence[int] | None = None,
    own: tuple[int, int] | None = None,
) -> tuple[int, int] | None:
    """The token grid (H, W) of the patches in a checkpoint; None if it cannot be known.

    Args:
        num_patches: H * W.
        noted: The grid that the checkpoint notes beside its parameters.
        own: The grid of the model that they are for. Without a note the grid is this one if it has
            as many patches, else a square.
    """
    side = math.isqrt(max(num_patches, 0))
    for grid in (own, (side, side)) if noted is None else (noted,):
        if grid is not None and math.prod(grid) == num_patches:
            return tuple(grid)
    return None
