import torch.nn.functional as F
from torch import Tensor


def partition_windows(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Cut a grid of tokens into windows, with zeros at its right and bottom where it ends in one.

    Args:
        x: (B, H * W, C).
        grid: (H, W) in tokens.
        window: Side of a window in tokens; 0: none, x is returned.

    Returns:
        (B * windows, window * window, C), the windows of an image row by row.
    """
    if not window:
        return x
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
        x: (B * windows, window * window, ...), any strides.
        grid: (H, W) in tokens.
        window: Side of a window in tokens; 0: none, x is returned.

    Returns:
        (B, H * W, ...); what lay in the padding is left out.
    """
    if not window:
        return x
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    x = x.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    x = x.reshape(x.shape[0], rows * window, columns * window, *x.shape[5:])
    return x[:, :height, :width].flatten(1, 2)
