"""Modules of one block: rational activation, feed-forward, attention, position embedding."""

from .attention import SoftmaxAttention
from .feed_forward import GRKAN, MLP
from .patch_embed import resize_patch_embed
from .pos_embed import resize_pos_embed
from .rational import GroupRational

__all__ = [
    'GRKAN',
    'MLP',
    'GroupRational',
    'SoftmaxAttention',
    'resize_patch_embed',
    'resize_pos_embed',
]
