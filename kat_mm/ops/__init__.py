"""Functions on tensors. Imports torch and triton only."""

from .add_layer_norm import add_layer_norm
from .fourier_low_rank import fourier_low_rank
from .group_rational import group_rational
from .qkv_linear import qkv_linear, split_heads

__all__ = ['add_layer_norm', 'fourier_low_rank', 'group_rational', 'qkv_linear', 'split_heads']
