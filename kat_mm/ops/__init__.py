"""Functions on tensors. Of OpenMMLab it imports nothing."""

from .add_layer_norm import add_branch, add_layer_norm, end_branch
from .feed_forward import FeedForwardParameters, feed_forward
from .fourier_low_rank import fourier_low_rank
from .group_rational import group_rational
from .linear import linear
from .low_rank import low_rank_attend
from .nms import suppress
from .qkv_linear import qkv_linear, split_heads

__all__ = [
    'FeedForwardParameters',
    'add_branch',
    'add_layer_norm',
    'end_branch',
    'feed_forward',
    'fourier_low_rank',
    'group_rational',
    'linear',
    'low_rank_attend',
    'qkv_linear',
    'split_heads',
    'suppress',
]
