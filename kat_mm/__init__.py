"""KAT for OpenMMLab. Importing this package registers its modules, and does nothing else."""

from . import backbones, checkpoints, datasets, engine, layers, necks
from .version import __version__

__all__ = ['__version__', 'backbones', 'checkpoints', 'datasets', 'engine', 'layers', 'necks']
