"""Functions on tensors. Of OpenMMLab it imports nothing.

There are two families, and each function has one name in parallel files.

Operators are made known to PyTorch, as ``torch.ops.kat_mm.NAME`` (``common/registration.py``):
``activation``, ``add_layer_norm``, ``feed_forward``, ``fourier_low_rank``, ``group_rational``,
``linear_rational``, ``resize``, ``resized_cross_entropy``, and without a gradient
``resampled_argmax`` and ``suppress``.
``NAME.py`` checks, chooses and registers; ``NAME_eager.py`` computes on any device,
``NAME_triton.py`` on a GPU.

Products are linear algebra that PyTorch knows already (``common/products.py``): ``linear``,
``qkv_linear``, ``low_rank_attend``. Ours is their backward pass alone, where nothing traces, so
that a compiler and an exporter see nothing but PyTorch's products. ``rotate`` turns queries and
keys, by kernels as a part of ``qkv_linear``.
"""

from .activation import ACTIVATIONS, activation
from .add_layer_norm import add_branch, add_layer_norm, end_branch
from .common import backend
from .feed_forward import FeedForwardParameters, feed_forward
from .fourier_low_rank import fourier_low_rank
from .group_rational import group_rational
from .linear import linear
from .linear_rational import linear_rational
from .low_rank_attend import low_rank_attend
from .qkv_linear import qkv_linear, split_heads
from .resampled_argmax import Taps, bilinear_rows, resampled_argmax
from .resize import resize
from .resized_cross_entropy import ResizedCrossEntropy, resized_cross_entropy
from .rotate import Rotation, rotate
from .suppress import suppress

__all__ = [
    'ACTIVATIONS',
    'FeedForwardParameters',
    'ResizedCrossEntropy',
    'Rotation',
    'Taps',
    'activation',
    'add_branch',
    'add_layer_norm',
    'backend',
    'bilinear_rows',
    'end_branch',
    'feed_forward',
    'fourier_low_rank',
    'group_rational',
    'linear',
    'linear_rational',
    'low_rank_attend',
    'qkv_linear',
    'resampled_argmax',
    'resize',
    'resized_cross_entropy',
    'rotate',
    'split_heads',
    'suppress',
]
