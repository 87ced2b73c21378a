"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .hooks import AverageLossHook, Float32BoxesHook, SeedIterationHook
from .optim import LayerDecayOptimWrapperConstructor

__all__ = [
    'AverageLossHook',
    'Float32BoxesHook',
    'LayerDecayOptimWrapperConstructor',
    'SeedIterationHook',
]
