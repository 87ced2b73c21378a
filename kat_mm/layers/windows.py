import torch
import torch.nn.functional as F
from torch import Tensor


def window_partition(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Cut a grid of tokens into windows, with zeros at its right and bottom where it ends in one.

    Args:
        x: (B, E + H * W, C), any number E of extra tokens before the patches.
        grid: (H, W) in tokens.
        window: Side of a window in tokens; 0: none, x is returned.

    Returns:
        (B * windows, E + window * window, C), the windows of an image row by row; each has all
        extra tokens.
    """
    if not window:
        return x
    batch, tokens, channels = x.shape
    extra = tokens - grid[0] * grid[1]
    if extra:
        first, x = x.tensor_split([extra], dim=1)
        x = window_partition(x, grid, window)
        return torch.cat([first.repeat_interleave(x.shape[0] // batch, dim=0), x], dim=1)
    x = x.reshape(batch, *grid, channels)
    rows, columns = count_windows(grid, window)
    right, bottom = columns * window - grid[1], rows * window - grid[0]
    # A program for any size pads at every size, whatever the one that it is traced with.
    if isinstance(right + bottom, torch.SymInt) or right or bottom:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.view(batch, rows, window, columns, window, channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, window * window, channels)


def window_unpartition(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Put windows together again: the inverse of :func:`window_partition`.

    Args:
        x: (B * windows, E + window * window, ...), any strides.
        grid: (H, W) in tokens.
        window: Side of a window in tokens; 0: none, x is returned.

    Returns:
        (B, E + H * W, ...); what lay in the padding is left out. Extra tokens are those of an
        image's first window.
    """
    if not window:
        return x
    height, width = grid
    rows, columns = count_windows(grid, window)
    extra = x.shape[1] - window * window
    if extra:
        first = x[:: rows * columns, :extra]
        return torch.cat([first, window_unpartition(x[:, extra:], grid, window)], dim=1)
    # The batch is written out: an exporter knows the quotient, and would have to guess a -1.
    batch = x.shape[0] // (rows * columns)
    x = x.unflatten(1, (window, window)).unflatten(0, (batch, rows, columns)).transpose(2, 3)
    x = x.reshape(batch, rows * window, columns * window, *x.shape[5:])
    x = x[:, :height, :width]
    # As above: traced at a size of whole windows, it would be a view, which other sizes have not.
    if isinstance(height + width, torch.SymInt):
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(1, 2)


def count_windows(grid: tuple[int, int], window: int) -> tuple[int, int]:
    """Windows in a column and in a row of a grid of tokens."""
    # No quotient of negative numbers, which ONNX rounds the other way.
    return (grid[0] + window - 1) // window, (grid[1] + window - 1) // window


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], window: int, **kwargs
) -> Tensor:
    """Softmax attention in windows. Patches see those of their window, and all extra tokens.

    Extra tokens (class token, registers) see all tokens of the image, without the padding. So one
    window over the whole grid is attention over all tokens.

    Args:
        q: (B * windows, heads, E + window * window, d), as of :func:`window_partition`.
        k: The same.
        v: The same.
        grid: (H, W) in tokens.
        window: Side of a window in tokens.
        kwargs: For ``scaled_dot_product_attention``.

    Returns:
        As q.
    """
    extra = q.shape[2] - window * window
    if not extra:
        return F.scaled_dot_product_attention(q, k, v, **kwargs)
    patches = F.scaled_dot_product_attention(q[:, :, extra:], k, v, **kwargs)
    whole = [window_unpartition(t.transpose(1, 2), grid, window).transpose(1, 2) for t in (k, v)]
    windows = q.shape[0] // whole[0].shape[0]
    first = F.scaled_dot_product_attention(q[::windows, :, :extra], *whole, **kwargs)
    return torch.cat([first.repeat_interleave(windows, dim=0), patches], dim=2)
