import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kat_mm.arguments import check_bools, check_choice, check_int, check_pair, check_rate
from kat_mm.ops import split_heads

from .block_spec import BlockSpec
from .init import mimetic_, trunc_normal_
from .masked_attention import masked_attention
from .rel_pos import rel_pos_attention, resize_rel_pos
from .windows import merge_windows, partition_windows

_logger = logging.getLogger(__name__)

# Sizes decide in these, which torch.fx cannot see: to it each is one step.
for _name in ('masked_attention', 'merge_windows', 'partition_windows', 'rel_pos_attention'):
    torch.fx.wrap(_name)


class SoftmaxAttention(nn.Module):
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
        window_size: Side in tokens of the windows in which the patches attend to each other
            (ViTDet); the grid is padded with zeros to a multiple of it. The tokens must be the grid
            alone. Default: 0, attention over all tokens.
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
        window_size: int = 0,
    ):
        super().__init__()
        check_int('SoftmaxAttention', 'embed_dims', embed_dims, least=1)
        check_int('SoftmaxAttention', 'num_heads', num_heads, least=1)
        check_int('SoftmaxAttention', 'window_size', window_size, least=0)
        check_rate('SoftmaxAttention', 'attn_drop_rate', attn_drop_rate)
        check_rate('SoftmaxAttention', 'proj_drop_rate', proj_drop_rate)
        if embed_dims % num_heads:
            raise ValueError(
                f'SoftmaxAttention: num_heads={num_heads} does not divide embed_dims={embed_dims}'
            )
        check_bools('SoftmaxAttention', qkv_bias=qkv_bias)
        check_choice('SoftmaxAttention', 'init', init, ('mimetic', 'trunc_normal'))
        if rel_pos_size is not None:
            check_pair('SoftmaxAttention', 'rel_pos_size', rel_pos_size, 1, 'a grid (H, W)')
        self.num_heads = num_heads
        self.init = init
        self.attn_drop_rate = attn_drop_rate
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.use_rel_pos = rel_pos_size is not None
        self.zero_if_absent = ('rel_pos_h', 'rel_pos_w') if self.use_rel_pos else ()
        if self.use_rel_pos:
            head = embed_dims // num_heads
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(torch.zeros(2 * size - 1, head)) for size in rel_pos_size
            )
            self.register_load_state_dict_pre_hook(_fit_loaded_rel_pos)

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'SoftmaxAttention':
        """The attention of a block; see :class:`BlockSpec`."""
        return cls(
            spec.embed_dims,
            spec.num_heads,
            rel_pos_size=spec.attended_grid if spec.use_rel_pos else None,
            window_size=spec.window_size,
            **options,
        )

    def init_weights(self) -> None:
        if self.init == 'mimetic':
            mimetic_(self.qkv, self.proj, self.num_heads)
        else:
            trunc_normal_(self.qkv)
            trunc_normal_(self.proj)

    def forward(self, x: Tensor, grid: tuple[int, int], attn_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) to the same shape.

        Args:
            x: The last H * W of the N tokens are patches, whatever stands before them.
            grid: (H, W).
            attn_mask: As in ``scaled_dot_product_attention``: true where a query may look, or what
                is added to its scores; broadcast to (B, heads, N, N). One of M < N rows, M > 1, is
                that of the first M tokens, and the others look at all.

        Raises:
            ValueError: There are windows, to which a mask does not apply.
        """
        q, k, v = self.project(partition_windows(x, grid, self.window_size))
        x = self.attend(q, k, v, grid, attn_mask).transpose(1, 2)
        x = merge_windows(x, grid, self.window_size).flatten(2)
        return self.proj_drop(self.proj(x))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, C / heads), of x (B, N, C)."""
        return split_heads(self.qkv(x), self.num_heads)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int],
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Values weighted by attention: (B, heads, N, C / heads) each, and the result.

        With windows the first dimension is that of ``partition_windows``, and ``grid`` still that
        of the whole image.
        """
        options = dict(attn_mask=attn_mask, dropout_p=self.attn_drop_rate if self.training else 0.0)
        grid = self.attended_grid(grid, attn_mask)
        if self.use_rel_pos:
            return rel_pos_attention(q, k, v, grid, (self.rel_pos_h, self.rel_pos_w), **options)
        if attn_mask is not None:
            return masked_attention(q, k, v, **options)
        return F.scaled_dot_product_attention(q, k, v, **options)

    def attended_grid(
        self, grid: tuple[int, int], attn_mask: Tensor | None = None
    ) -> tuple[int, int]:
        """(H, W) of the patches that a query sees; arguments as of ``forward``."""
        if not self.window_size:
            return grid
        if attn_mask is not None:
            raise ValueError(
                f'{type(self).__name__}: attn_mask does not apply to attention in windows of '
                f'{self.window_size} tokens; give it to blocks that attend to all tokens'
            )
        return self.window_size, self.window_size


def _fit_loaded_rel_pos(module: SoftmaxAttention, state_dict: dict, prefix: str, *_) -> None:
    for name in module.zero_if_absent:
        key, own = f'{prefix}{name}', getattr(module, name)
        loaded = state_dict.get(key)
        # Where even the channels differ, the shape is refused.
        if loaded is not None and len(loaded) != len(own) and loaded.shape[1:] == own.shape[1:]:
            _logger.info('%s resized from %d to %d distances', key, len(loaded), len(own))
            state_dict[key] = resize_rel_pos(loaded, (len(own) + 1) // 2)
