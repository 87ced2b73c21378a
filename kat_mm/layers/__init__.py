"""Modules of a block: rational activation, feed-forward, attention, positions."""

from .attention import SoftmaxAttention
from .block_spec import BlockSpec
from .drop_path import DropPath
from .feed_forward import GRKAN, MLP, Activation, GatedGRKAN, SwiGLU
from .karat import KArAt
from .layer_scale import LayerScale
from .norm import LayerNorm2d
from .patch_embed import PatchEmbed, resize_patch_embed
from .pos_embed import find_grid, find_positions, resize_pos_embed
from .rational import GroupRational
from .rope import RotaryEmbedding
from .windows import window_partition, window_unpartition

__all__ = [
    'GRKAN',
    'MLP',
    'Activation',
    'BlockSpec',
    'DropPath',
    'GatedGRKAN',
    'GroupRational',
    'KArAt',
    'LayerNorm2d',
    'LayerScale',
    'PatchEmbed',
    'RotaryEmbedding',
    'SoftmaxAttention',
    'SwiGLU',
    'find_grid',
    'find_positions',
    'window_unpartition',
    'window_partition',
    'resize_patch_embed',
    'resize_pos_embed',
]
