"""Backbones, registered in the root registry of mmengine."""

from .kat import KAT

__all__ = ['KAT']
