import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

INTERPOLATIONS = ('bicubic', 'bicubic_antialias', 'bicubic_offset')


def resize_pos_embed(
    pos_embed: Tensor,
    from_grid: tuple[int, int],
    to_grid: tuple[int, int],
    num_extra_tokens: int,
    interpolation: str = 'bicubic',
) -> Tensor:
    """Resize a position embedding from one token grid to another.

    Args:
        pos_embed: (1, num_extra_tokens + H * W, C), extra tokens (class token) first.
        from_grid: (H, W) in tokens.
        to_grid: (H', W') in tokens.
        num_extra_tokens: Tokens apart from the grid, which are kept as they are.
        interpolation: 'bicubic' (MAE, ViTDet, EVA-02, KAT), 'bicubic_antialias' (timm, OpenCLIP,
            DINOv2 with registers), or 'bicubic_offset' (DINOv2 without: by the factor
            (H' + 0.1) / H, which moves where it is read). Default: 'bicubic'.

    Returns:
        (1, num_extra_tokens + H' * W', C), in the dtype of ``pos_embed``.
    """
    # A program that is exported for any size resizes to the same size too, which changes nothing.
    any_size = any(isinstance(side, torch.SymInt) for side in to_grid)
    if not any_size and from_grid == to_grid:
        return pos_embed
    extra, grid = pos_embed.tensor_split([num_extra_tokens], dim=1)
    grid = grid.unflatten(1, from_grid).permute(0, 3, 1, 2)
    options = dict(size=to_grid, antialias=interpolation == 'bicubic_antialias')
    if interpolation == 'bicubic_offset':
        factors = [(to + 0.1) / old for to, old in zip(to_grid, from_grid, strict=True)]
        options = dict(scale_factor=factors)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    resized = F.interpolate(grid, mode='bicubic', align_corners=False, **options)
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
            return grid[0], grid[1]
    return None


def find_positions(
    num_positions: int,
    has_cls_token: int,
    noted: Sequence[int] | None = None,
    own: tuple[int, int] | None = None,
) -> tuple[tuple[int, int] | None, int]:
    """What the rows of a checkpoint's position embedding belong to.

    Args:
        num_positions: Rows.
        has_cls_token: Whether the checkpoint has a class token.
        noted: As of :func:`find_grid`.
        own: As of :func:`find_grid`.

    Returns:
        The grid (H, W) of the patches, or None if it cannot be known, and how many rows stand
        before them: usually those of the class token, but DeiT-III has no position for it, and
        ViTDet has the position of a class token that is gone.
    """
    for first in (1, 0) if has_cls_token else (0, 1):
        grid = find_grid(num_positions - first, noted, own)
        if grid is not None:
            return grid, first
    return None, 0
