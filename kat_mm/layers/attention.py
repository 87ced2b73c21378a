import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from kat_mm.ops import linear, qkv_linear, split_heads

from .init import mimetic_, trunc_normal_
from .rel_pos import rel_pos_attention, resize_rel_pos
from .residual import is_plain


@MODELS.register_module()
class SoftmaxAttention(BaseModule):
    """Multi-head self-attention on PyTorch's fused ``scaled_dot_product_attention``.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Number of heads; must divide C.
        qkv_bias: Whether q, k and v have a bias. Default: True.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        proj_drop_rate: Dropout after the output projection. Default: 0.
        init: 'mimetic' (as the published KAT models) or 'trunc_normal' (std 0.02, as DeiT).
            Default: 'mimetic'.
        rel_pos_size: Grid (H, W) for which the tables of decomposed relative positions are made,
            ``rel_pos_h`` (2 H - 1, C / heads) and ``rel_pos_w`` (2 W - 1, C / heads), zero at the
            start. On other grids and on loading they are resized linearly. The tokens must be the
            grid alone. Default: None, without relative positions.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init: str = 'mimetic',
        rel_pos_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f'SoftmaxAttention: num_heads={num_heads} does not divide embed_dims={embed_dims}'
            )
        if init not in ('mimetic', 'trunc_normal'):
            raise ValueError(
                f"SoftmaxAttention: init={init!r} is unknown; choose 'mimetic' or 'trunc_normal'"
            )
        self.num_heads = num_heads
        self.init = init
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.use_rel_pos = rel_pos_size is not None
        if self.use_rel_pos:
            head = embed_dims // num_heads
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(torch.zeros(2 * size - 1, head)) for size in rel_pos_size
            )
            self.register_load_state_dict_pre_hook(_fit_loaded_rel_pos)

    def init_weights(self) -> None:
        if self.init == 'mimetic':
            mimetic_(self.qkv, self.proj, self.num_heads)
        else:
            trunc_normal_(self.qkv)
            trunc_normal_(self.proj)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) to the same shape; the last H * W tokens are patches, for ``grid`` = (H, W)."""
        x, bias = self.forward_without_bias(x, grid)
        return x if bias is None else x + bias.to(x.dtype)

    def forward_without_bias(
        self, x: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """``forward`` without the last bias, which the next normalisation adds at no cost on a GPU.

        Args:
            x: (B, N, C).
            grid: As of ``forward``.

        Returns:
            (B, N, C), and the bias (C,) that is still to be added, or None if there is none.
        """
        x = self.attend(*self.project(x), grid).transpose(1, 2).flatten(2)
        if not is_plain(self.proj, nn.Linear):
            return self.proj_drop(self.proj(x)), None
        weight, bias = self.proj.weight, self.proj.bias
        if x.is_cuda and not (self.training and self.proj_drop.p):
            return linear(x, weight, None), bias
        return self.proj_drop(linear(x, weight, bias)), None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, C / heads), of x (B, N, C)."""
        if is_plain(self.qkv, nn.Linear):
            return qkv_linear(x, self.qkv.weight, self.qkv.bias, self.num_heads)
        return split_heads(self.qkv(x), self.num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """Values weighted by attention: (B, heads, N, C / heads) each, and the result."""
        dropout = self.attn_drop_rate if self.training else 0.0
        if self.use_rel_pos:
            tables = (self.rel_pos_h, self.rel_pos_w)
            tables = tuple(map(resize_rel_pos, tables, grid))
            return rel_pos_attention(q, k, v, grid, tables, dropout_p=dropout)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def _fit_loaded_rel_pos(module: SoftmaxAttention, state_dict: dict, prefix: str, *_) -> None:
    for name in ('rel_pos_h', 'rel_pos_w'):
        key, own = prefix + name, getattr(module, name)
        loaded = state_dict.get(key)
        # Where even the channels differ, the shape is refused.
        if loaded is not None and len(loaded) != len(own) and loaded.shape[1:] == own.shape[1:]:
            print_log(f'{key} resized from {len(loaded)} to {len(own)} distances', 'current')
            state_dict[key] = resize_rel_pos(loaded, (len(own) + 1) // 2)
