"""Modules of a block: rational activation, feed-forward, attention; resizing of embeddings."""

from .attention import SoftmaxAttention
from .feed_forward import GRKAN, MLP
from .karat import KArAt
from .norm import LayerNorm2d
from .patch_embed import resize_patch_embed
from .pos_embed import resize_pos_embed
from .rational import GroupRational
from .windows import merge_windows, partition_windows

__all__ = [
    'GRKAN',
    'MLP',
    'GroupRational',
    'KArAt',
    'LayerNorm2d',
    'SoftmaxAttention',
    'merge_windows',
    'partition_windows',
    'resize_patch_embed',
    'resize_pos_embed',
]
