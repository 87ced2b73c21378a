"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .float32_boxes import Float32BoxesHook
from .hooks import AverageLossHook, SeedIterationHook
from .optim import LayerDecayOptimWrapperConstructor

__all__ = [
    'AverageLossHook',
    'Float32BoxesHook',
    'LayerDecayOptimWrapperConstructor',
    'SeedIterationHook',
]
