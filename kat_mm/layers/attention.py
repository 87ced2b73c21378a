import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from kat_mm.ops import linear, qkv_linear, split_heads

from .init import mimetic_, trunc_normal_
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
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init: str = 'mimetic',
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

    def init_weights(self) -> None:
        if self.init == 'mimetic':
            mimetic_(self.qkv, self.proj, self.num_heads)
        else:
            trunc_normal_(self.qkv)
            trunc_normal_(self.proj)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) to the same shape; the last H * W tokens are patches, for ``grid`` = (H, W)."""
        batch, tokens, channels = x.shape
        if is_plain(self.qkv, nn.Linear):
            q, k, v = qkv_linear(x, self.qkv.weight, self.qkv.bias, self.num_heads)
        else:
            q, k, v = split_heads(self.qkv(x), self.num_heads)
        x = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop_rate if self.training else 0.0
        )
        x = x.transpose(1, 2).reshape(batch, tokens, channels)
        x = (
            linear(x, self.proj.weight, self.proj.bias)
            if is_plain(self.proj, nn.Linear)
            else self.proj(x)
        )
        return self.proj_drop(x)
