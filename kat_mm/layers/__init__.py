"""Modules of a block: rational activation, feed-forward, attention, positions."""

from .attention import SoftmaxAttention
from .block_spec import BlockSpec
from .drop_path import DropPath
from .feed_forward import GRKAN, MLP
from .karat import KArAt
from .norm import LayerNorm2d
from .patch_embed import PatchEmbed, resize_patch_embed
from .pos_embed import find_grid, resize_pos_embed
from .rational import GroupRational
from .windows import merge_windows, partition_windows

__all__ = [
    'GRKAN',
    'MLP',
    'BlockSpec',
    'DropPath',
    'GroupRational',
    'KArAt',
    'LayerNorm2d',
    'PatchEmbed',
    'SoftmaxAttention',
    'find_grid',
    'merge_windows',
    'partition_windows',
    'resize_patch_embed',
    'resize_pos_embed',
]
