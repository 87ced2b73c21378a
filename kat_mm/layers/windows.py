import torch.nn.functional as F
from torch import Tensor


def partition_windows(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Cut a grid of tokens into windows, with zeros at its right and bottom where it ends in one.

    Args:
        x: (B, H * W, C).
        grid: (H, W) in tokens.
        window: Side of a window in tokens.

    Returns:
        (B * windows, window * window, C), the windows of an image row by row.
    """
    x = x.unflatten(1, grid)
    right, bottom = -grid[1] % window, -grid[0] % window
    if right or bottom:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def merge_windows(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Put windows together again: the inverse of :func:`partition_windows`.

    Args:
        x: (B * windows, window * window, C).
        grid: (H, W) in tokens.
        window: Side of a window in tokens.

    Returns:
        (B, H * W, C); what lay in the padding is left out.
    """
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    x = x.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width].flatten(1, 2)
