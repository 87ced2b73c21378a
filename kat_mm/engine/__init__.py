"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .float32_boxes import Float32BoxesHook
from .hooks import AverageLossHook, PlotRationalsHook, SeedIterationHook
from .optim import LayerDecayOptimWrapperConstructor
from .runner import CheckpointRunner

__all__ = [
    'AverageLossHook',
    'CheckpointRunner',
    'Float32BoxesHook',
    'LayerDecayOptimWrapperConstructor',
    'PlotRationalsHook',
    'SeedIterationHook',
]
