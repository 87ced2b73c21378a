import math

import torch
import torch.nn.functional as F
from torch import Tensor


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


def _by_query_and_key(table: Tensor) -> Tensor:
    """(2 H - 1, d) by distance to (H, H, d) by the positions of query and key."""
    size = (len(table) + 1) // 2
    # Each query sees a run of the reversed table. (An index would be sorted in backward.)
    return table.flip(0).unfold(0, size, 1).flip(0).mT


def _own_row_and_column(k: Tensor, grid: tuple[int, int], pad: int) -> Tensor:
    """(H * W, H + W + pad): 1 for the row and for the column of each token."""
    height, width = grid
    row = torch.eye(height, dtype=k.dtype, device=k.device)
    column = torch.eye(width, width + pad, dtype=k.dtype, device=k.device)
    row, column = row[:, None].expand(-1, width, -1), column.expand(height, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


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
        rel_pos: Tables (2 H - 1, d) and (2 W - 1, d).
        kwargs: For ``scaled_dot_product_attention``.

    Returns:
        (B, heads, H * W, d).
    """
    height, width = grid
    head = q.shape[-1]
    # Fused kernels want a multiple of 8 channels, and flash attention as many of v as of q and k.
    pad = -(head + height + width) % 8
    rows = q.unflatten(2, grid)
    in_rows, in_columns = (_by_query_and_key(table * math.sqrt(head)) for table in rel_pos)
    bias_of_row = torch.einsum('bnhwd,hkd->bnhwk', rows, in_rows).flatten(2, 3)
    bias_of_column = torch.einsum('bnhwd,wkd->bnhwk', rows, in_columns).flatten(2, 3)
    if pad:
        bias_of_column = F.pad(bias_of_column, (0, pad))
    q = torch.cat([q, bias_of_row.to(q.dtype), bias_of_column.to(q.dtype)], dim=-1)
    own = _own_row_and_column(k, grid, pad)
    k = torch.cat([k, own.expand(*k.shape[:2], -1, -1)], dim=-1)
    v = F.pad(v, (0, height + width + pad))
    return F.scaled_dot_product_attention(q, k, v, scale=head**-0.5, **kwargs)[..., :head]
