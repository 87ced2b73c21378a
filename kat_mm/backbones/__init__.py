"""The backbone, and how checkpoints get into it."""

from .kat import KAT
from .pretrained import load_pretrained
from .whole_model import convert_for_model, drop_start_weights

__all__ = ['KAT', 'convert_for_model', 'drop_start_weights', 'load_pretrained']
