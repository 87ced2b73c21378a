from torch import Tensor, nn

from kat_mm.layers import DropPath, LayerScale


class Block(nn.Module):
    """Transformer block: attention and feed-forward, each behind a norm and around a residual.

    Args:
        embed_dims: Channels C of the tokens.
        attn: Attention; see :class:`kat_mm.layers.BlockSpec` for what it must be.
        mlp: Feed-forward; likewise.
        drop_path_rate: Stochastic depth of both branches. Default: 0.
        norm_eps: What the norms add to the variance. Default: 1e-6.
        layer_scale: What LayerScale of both branches starts as. Default: None, without it.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = attn
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(embed_dims, layer_scale)
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(embed_dims, layer_scale)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor, grid: tuple[int, int], attn_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) to the same shape.

        Args:
            x: The last H * W of the N tokens are patches, whatever stands before them.
            grid: (H, W).
            attn_mask: As in ``torch.nn.functional.scaled_dot_product_attention``.
        """
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), grid, attn_mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
