"""Functions on tensors. Imports torch and triton only."""

from .group_rational import group_rational

__all__ = ['group_rational']
