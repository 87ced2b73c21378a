"""Published weights by name: where they are, how they are got, verified and kept."""

from .files import cache_dir, find_weights, read_weights
from .published import PUBLISHED, Published

__all__ = ['PUBLISHED', 'Published', 'cache_dir', 'find_weights', 'read_weights']
