"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .hooks import AverageLossHook, SeedIterationHook
from .optim import LayerDecayOptimWrapperConstructor

__all__ = ['AverageLossHook', 'LayerDecayOptimWrapperConstructor', 'SeedIterationHook']
