import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kat_mm.ops import linear


def resize_rel_pos(table: Tensor, size: int) -> Tensor:
    """Resize a table of relative positions linearly to another number of tokens.

    Args:
        table: (2 H - 1, d), one row for each distance from -(H - 1) to H - 1.
        size: H', tokens along the axis.

    Returns:
        (2 H' - 1, d).
    """
    length = 2 * size - 1
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], size=length, mode='linear')[0].T


def rel_pos_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], rel_pos: tuple[Tensor, Tensor], **kwargs
) -> Tensor:
    r"""Softmax attention with decomposed relative positions (MViTv2; ViTDet), on a fused kernel.

    .. math::
        softmax(q k^T / \sqrt{d} + q \cdot R_h[h_q - h_k] + q \cdot R_w[w_q - w_k]) v

    The bias, a number for each pair of tokens, is never held: it is a dot product of H + W more
    channels. Those of a query are its bias for each row and for each column of the grid, and those
    of a key are 1 for its own row and column, and 0 elsewhere:

    .. math::
        [q, \sqrt{d} q \cdot R_h, \sqrt{d} q \cdot R_w] \cdot
        [k, onehot(h_k), onehot(w_k)] / \sqrt{d}

    Args:
        q: (B, heads, H * W, d).
        k: (B, heads, H * W, d).
        v: (B, heads, H * W, d).
        grid: (H, W) in tokens.
        rel_pos: Tables (2 H - 1, d) and (2 W - 1, d), or of other sizes, which are resized.
        kwargs: For ``scaled_dot_product_attention``.

    Returns:
        (B, heads, H * W, d).
    """
    height, width = grid
    head = q.shape[-1]
    rel_pos = tuple(map(resize_rel_pos, rel_pos, grid))
    # Fused kernels want a multiple of 8 channels, and flash attention as many of v as of q and k.
    pad = -(head + height + width) % 8
    q = torch.cat([q.unflatten(2, grid), *_bias(q, grid, rel_pos, pad)], dim=-1).flatten(2, 3)
    own = _own_row_and_column(k, grid, pad)
    k = torch.cat([k, own.expand(*k.shape[:2], -1, -1)], dim=-1)
    none = v.new_zeros(()).expand(*v.shape[:3], height + width + pad)
    v = torch.cat([v, none], dim=-1)
    return F.scaled_dot_product_attention(q, k, v, scale=head**-0.5, **kwargs)[..., :head]


def _bias(
    q: Tensor, grid: tuple[int, int], rel_pos: tuple[Tensor, Tensor], pad: int
) -> tuple[Tensor, Tensor]:
    """A query's bias for each row of the grid, last row first, and for each column.

    Returns:
        (B, heads, H, W, H) and (B, heads, H, W, W + pad), times the square root of d.
    """
    height, width = grid
    batch, heads, tokens, head = q.shape
    # One product with all distances. A query in row h sees row h' at the distance h - h', which is
    # h + k places from the start, if k counts the rows from the last: for neighbouring queries the
    # same places, moved by one. So what belongs to a query is a view of the product.
    first_column = 2 * height - 1
    size = first_column + 2 * width - 1 + pad
    size += -size % 8
    table = F.pad(torch.cat(rel_pos), (0, 0, 0, size - first_column - 2 * width + 1))
    products = linear(q, table * math.sqrt(head), None).contiguous()
    by_row = products.as_strided(
        (batch, heads, height, width, height),
        (heads * tokens * size, tokens * size, width * size + 1, size, 1),
    )
    by_column = products.as_strided(
        (batch, heads, height, width, width + pad),
        (heads * tokens * size, tokens * size, width * size, size + 1, 1),
        first_column,
    )
    return by_row, by_column


def _own_row_and_column(k: Tensor, grid: tuple[int, int], pad: int) -> Tensor:
    """(H * W, H + W + pad): 1 for the row and for the column of each token, the last ones first."""
    height, width = grid
    row = torch.eye(height, dtype=k.dtype, device=k.device).flip(1)
    column = torch.eye(width, dtype=k.dtype, device=k.device).flip(1)
    row, column = row[:, None].expand(-1, width, -1), column.expand(height, -1, -1)
    return F.pad(torch.cat([row, column], dim=-1).flatten(0, 1), (0, pad))
