import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kat_mm.arguments import (
    MOST_CHANNELS,
    check_bools,
    check_choice,
    check_int,
    check_number,
    check_pair,
    check_rate,
)
from kat_mm.ops import split_heads

from .block_spec import BlockSpec
from .init import mimetic_, trunc_normal_
from .masked_attention import masked_attention
from .rel_pos import rel_pos_attention, resize_rel_pos
from .rope import RotaryEmbedding
from .windows import window_attention, window_partition, window_unpartition

_logger = logging.getLogger(__name__)

# Sizes decide in these, which torch.fx cannot see: to it each is one step.
for _name in (
    'masked_attention',
    'window_unpartition',
    'window_partition',
    'rel_pos_attention',
    'window_attention',
):
    torch.fx.wrap(_name)


class SoftmaxAttention(nn.Module):
    """Multi-head self-attention on PyTorch's fused ``scaled_dot_product_attention``.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Number of heads; must divide C.
        qkv_bias: True: q, k and v have a bias; 'qv': q and v alone, ``q_bias`` and ``v_bias``
            (BEiT, EVA-02, DINOv3); False: none. Default: True.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        proj_drop_rate: Dropout after the output projection. Default: 0.
        init: 'mimetic' (as the published KAT models) or 'trunc_normal' (std 0.02, as DeiT).
            Default: 'mimetic'.
        rel_pos_size: Grid (H, W) for which the tables of decomposed relative positions are made,
            ``rel_pos_h`` (2 H - 1, C / heads) and ``rel_pos_w`` (2 W - 1, C / heads), zero at the
            start. On other grids and on loading they are resized linearly. The tokens must be the
            grid alone. Default: None, without relative positions.
        window_size: Side in tokens of the windows in which the patches attend to each other
            (ViTDet); the grid is padded with zeros to a multiple of it. Tokens before the patches
            are seen by all, and see all. Default: 0, attention over all tokens.
        rope: Options of :class:`RotaryEmbedding`, whose positions are those in the whole image,
            with windows too. Default: None, no rotary positions.
        qk_norm: Whether queries and keys are normalised head by head, before they are turned
            (``q_norm``, ``k_norm``). Default: False.
        inner_norm: Whether there is a norm before the output projection (EVA-02-CLIP, BEiT-3).
            Default: False.
        norm_eps: What these norms add to the variance. Default: 1e-6.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool | str = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init: str = 'mimetic',
        rel_pos_size: tuple[int, int] | None = None,
        window_size: int = 0,
        rope: dict | None = None,
        qk_norm: bool = False,
        inner_norm: bool = False,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        check_int('SoftmaxAttention', 'embed_dims', embed_dims, 1, MOST_CHANNELS)
        check_int('SoftmaxAttention', 'num_heads', num_heads, least=1)
        check_int('SoftmaxAttention', 'window_size', window_size, least=0)
        check_number('SoftmaxAttention', 'norm_eps', norm_eps, above=0)
        check_rate('SoftmaxAttention', 'attn_drop_rate', attn_drop_rate)
        check_rate('SoftmaxAttention', 'proj_drop_rate', proj_drop_rate)
        if embed_dims % num_heads:
            raise ValueError(
                f'SoftmaxAttention: num_heads={num_heads} does not divide embed_dims={embed_dims}'
            )
        if not isinstance(qkv_bias, bool) and qkv_bias != 'qv':
            raise ValueError(
                f'SoftmaxAttention: qkv_bias={qkv_bias!r} must be True or False, or '
                "'qv', a bias of q and v alone"
            )
        check_bools('SoftmaxAttention', qk_norm=qk_norm, inner_norm=inner_norm)
        check_choice('SoftmaxAttention', 'init', init, ('mimetic', 'trunc_normal'))
        if rel_pos_size is not None:
            check_pair('SoftmaxAttention', 'rel_pos_size', rel_pos_size, 1, 'a grid (H, W)')
        head = embed_dims // num_heads
        self.num_heads = num_heads
        self.init = init
        self.attn_drop_rate = attn_drop_rate
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias is True)
        for name in ('q_bias', 'v_bias'):
            bias = nn.Parameter(torch.zeros(embed_dims)) if qkv_bias == 'qv' else None
            self.register_parameter(name, bias)
        self.q_norm = nn.LayerNorm(head, eps=norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head, eps=norm_eps) if qk_norm else nn.Identity()
        self.rope = None if rope is None else RotaryEmbedding(head, **rope)
        self.norm = nn.LayerNorm(embed_dims, eps=norm_eps) if inner_norm else nn.Identity()
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.use_rel_pos = rel_pos_size is not None
        self.neutral = dict.fromkeys(('rel_pos_h', 'rel_pos_w'), 0.0) if self.use_rel_pos else {}
        self.register_load_state_dict_pre_hook(_fit_loaded_bias)
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(torch.zeros(2 * size - 1, head)) for size in rel_pos_size
            )
            self.register_load_state_dict_pre_hook(_fit_loaded_rel_pos)

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'SoftmaxAttention':
        """The attention of a block; see :class:`BlockSpec`."""
        options.setdefault('norm_eps', spec.norm_eps)
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
        if self.q_bias is not None:
            nn.init.zeros_(self.q_bias)
            nn.init.zeros_(self.v_bias)

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
        q, k, v = self.project(window_partition(x, grid, self.window_size))
        x = self.attend(q, k, v, grid, attn_mask).transpose(1, 2)
        x = window_unpartition(x, grid, self.window_size).flatten(2)
        return self.proj_drop(self.proj(self.norm(x)))

    @property
    def qkv_bias(self) -> Tensor | None:
        """(3 C,), that of keys zero where they have none; None where nothing has."""
        if self.q_bias is None:
            return self.qkv.bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, C / heads), of x (B, N, C)."""
        qkv = self.qkv(x)
        if self.q_bias is not None:
            qkv = qkv + self.qkv_bias.to(qkv.dtype)
        return split_heads(qkv, self.num_heads)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int],
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Values weighted by attention: (B, heads, N, C / heads) each, and the result.

        With windows the first dimension is that of ``window_partition``, and ``grid`` still that
        of the whole image.
        """
        # Under autocast a norm gives float32.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if self.rope is not None:
            q, k = self.rope(q, k, grid, self.window_size)
        return self.weigh(q, k, v, grid, attn_mask)

    def weigh(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int],
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """As ``attend``, of queries and keys that are normalised and turned already."""
        options = dict(attn_mask=attn_mask, dropout_p=self.attn_drop_rate if self.training else 0.0)
        seen = self.attended_grid(grid, attn_mask)
        if self.use_rel_pos:
            return rel_pos_attention(q, k, v, seen, (self.rel_pos_h, self.rel_pos_w), **options)
        if self.window_size:
            return window_attention(q, k, v, grid, self.window_size, **options)
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


def _fit_loaded_bias(module: SoftmaxAttention, state_dict: dict, prefix: str, *_) -> None:
    """Give the bias of q, k and v the form that the module has, where that is the same function.

    What it cannot hold stays under its name, and is refused as a key that has no place.
    """
    whole, of_q, of_v = (f'{prefix}{name}' for name in ('qkv.bias', 'q_bias', 'v_bias'))
    if of_q in state_dict and of_v in state_dict and module.q_bias is None:
        q, v = state_dict[of_q], state_dict[of_v]
        state_dict[whole] = torch.cat([q, torch.zeros_like(q), v])
        del state_dict[of_q], state_dict[of_v]
    loaded = state_dict.get(whole)
    if loaded is None:
        return
    if module.q_bias is not None and not loaded.chunk(3)[1].any():
        state_dict[of_q], _, state_dict[of_v] = loaded.chunk(3)
        del state_dict[whole]
    elif module.q_bias is None and getattr(module.qkv, 'bias', None) is None and not loaded.any():
        del state_dict[whole]


def _fit_loaded_rel_pos(module: SoftmaxAttention, state_dict: dict, prefix: str, *_) -> None:
    stored = dict(module.named_parameters())
    for name in module.neutral:
        # A parametrised table is stored under the second name.
        for place in (name, f'parametrizations.{name}.original'):
            key, own = f'{prefix}{place}', stored.get(place)
            loaded = state_dict.get(key)
            if own is None or loaded is None:
                continue
            # Where even the channels differ, the shape is refused.
            if len(loaded) != len(own) and loaded.shape[1:] == own.shape[1:]:
                _logger.info('%s resized from %d to %d distances', key, len(loaded), len(own))
                state_dict[key] = resize_rel_pos(loaded, (len(own) + 1) // 2)
