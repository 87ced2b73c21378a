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
    batch, _, channels = x.shape
    x = x.reshape(batch, *grid, channels)
    right, bottom = -grid[1] % window, -grid[0] % window
    if right or bottom:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    rows, columns = (grid[0] + bottom) // window, (grid[1] + right) // window
    x = x.view(batch, rows, window, columns, window, channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, window * window, channels)


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
    batch, channels = x.shape[0] // (rows * columns), x.shape[-1]
    x = x.view(batch, rows, columns, window, window, channels).transpose(2, 3)
    x = x.reshape(batch, rows * window, columns * window, channels)
    if height % window or width % window:
        x = x[:, :height, :width]
    return x.reshape(batch, height * width, channels)
