"""Functions on tensors. Imports torch and triton only."""

from .fourier_low_rank import fourier_low_rank
from .group_rational import group_rational

__all__ = ['fourier_low_rank', 'group_rational']
