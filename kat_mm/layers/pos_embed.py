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
