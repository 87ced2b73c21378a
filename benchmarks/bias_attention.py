"""Attention with decomposed relative positions, whose bias is a number for each pair of tokens.

As in ViTDet's own code, beside which ``rel_pos_attention``, which never holds it, is measured.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from kat_mm.layers import SoftmaxAttention
from kat_mm.ops import qkv_linear


def by_query_and_key(table: Tensor) -> Tensor:
    """(2 H - 1, d) by distance to (H, H, d) by the positions of query and key."""
    size = (len(table) + 1) // 2
    # Each query sees a run of the reversed table. (An index would be sorted in backward.)
    return table.flip(0).unfold(0, size, 1).flip(0).mT


def bias_matrix(q: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, H * W, H * W)."""
    rows = q.unflatten(2, grid)
    in_rows, in_columns = map(by_query_and_key, tables)
    bias = torch.einsum('bnhwd,hkd->bnhwk', rows, in_rows)[..., :, None]
    bias = bias + torch.einsum('bnhwd,wkd->bnhwk', rows, in_columns)[..., None, :]
    return bias.flatten(4, 5).flatten(2, 3)


def explicit_bias(q, k, v, grid, tables) -> Tensor:
    """On PyTorch's fused kernel that takes a bias."""
    bias = bias_matrix(q, grid, tables).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def matrix(q, k, v, grid, tables) -> Tensor:
    """With the matrix of attention held too."""
    logits = (q / math.sqrt(q.shape[-1])) @ k.mT + bias_matrix(q, grid, tables)
    return logits.softmax(dim=-1).to(v.dtype) @ v


class _BiasAttention(SoftmaxAttention):
    """Queries, keys and values come from our operator, as in the models it is compared with."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return qkv_linear(x, self.qkv.weight, self.qkv_bias, self.num_heads)

    def weigh(self, q, k, v, grid, attn_mask=None) -> Tensor:
        tables = self.rel_pos_h, self.rel_pos_w
        return self.weigh_by(q, k, v, self.attended_grid(grid, attn_mask), tables)


@MODELS.register_module()
class ExplicitBiasAttention(_BiasAttention):
    """By :func:`explicit_bias`."""

    weigh_by = staticmethod(explicit_bias)


@MODELS.register_module()
class MatrixAttention(_BiasAttention):
    """By :func:`matrix`."""

    weigh_by = staticmethod(matrix)
