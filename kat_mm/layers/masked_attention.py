import torch
import torch.nn.functional as F
from torch import Tensor


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout_p: float = 0.0
) -> Tensor:
    """``scaled_dot_product_attention`` with a mask of all rows, or of the first ones alone.

    Rows without a mask are computed apart, by the kernel that needs none, which is faster.

    Args:
        q, k, v: (B, heads, N, d).
        attn_mask: As in ``scaled_dot_product_attention``, or of M < N rows, M > 1: the others look
            at all tokens.
        dropout_p: Dropout of the attention weights. Default: 0.

    Raises:
        ValueError: The mask has more rows than there are tokens.
    """
    rows, tokens = attn_mask.shape[-2], q.shape[2]
    if rows > tokens:
        raise ValueError(f'attn_mask has {rows} rows for {tokens} tokens')
    if rows in (1, tokens):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p)
    first = F.scaled_dot_product_attention(q[:, :, :rows], k, v, attn_mask, dropout_p)
    others = F.scaled_dot_product_attention(q[:, :, rows:], k, v, None, dropout_p)
    return torch.cat([first, others], dim=2)
