"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .hooks import AverageLossHook, PlotRationalsHook, SeedIterationHook
from .optim import LayerDecayOptimWrapperConstructor
from .runner import CheckpointRunner

__all__ = [
    'AverageLossHook',
    'CheckpointRunner',
    'LayerDecayOptimWrapperConstructor',
    'PlotRationalsHook',
    'SeedIterationHook',
]
