"""Functions on tensors. Of OpenMMLab it imports nothing."""

from .add_layer_norm import add_branch, add_layer_norm, end_branch
from .feed_forward import FeedForwardParameters, feed_forward
from .fourier_low_rank import fourier_low_rank
from .group_rational import group_rational
from .linear import linear
from .low_rank import low_rank_attend
from .nms import suppress
from .qkv_linear import qkv_linear, split_heads
from .resampled_argmax import Taps, bilinear_rows, resampled_argmax
from .resize import resize
from .resized_cross_entropy import ResizedCrossEntropy, resized_cross_entropy

__all__ = [
    'FeedForwardParameters',
    'ResizedCrossEntropy',
    'Taps',
    'add_branch',
    'add_layer_norm',
    'bilinear_rows',
    'end_branch',
    'feed_forward',
    'fourier_low_rank',
    'group_rational',
    'linear',
    'low_rank_attend',
    'qkv_linear',
    'resampled_argmax',
    'resize',
    'resized_cross_entropy',
    'split_heads',
    'suppress',
]
