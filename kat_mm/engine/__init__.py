"""Training machinery: parameter groups, hooks, and what the command-line tools share."""

from .checkpoint_hook import AtomicCheckpointHook
from .epoch_loop import ResumableEpochLoop
from .fast_detection import FastDetectionHook
from .finite import FiniteLossHook
from .float32_boxes import Float32BoxesHook
from .hooks import AverageLossHook, PlotRationalsHook, SeedIterationHook
from .mask_annealing import MaskAnnealingHook
from .optim import LayerDecayOptimWrapperConstructor
from .pictures import PicturesHook
from .runner import CheckpointRunner
from .runtime_info import LateRuntimeInfoHook
from .segmentation_kernels import SegmentationKernelsHook
from .signals import PreemptionHook
from .two_warmups import TwoWarmupsPolyLR

__all__ = [
    'AtomicCheckpointHook',
    'AverageLossHook',
    'CheckpointRunner',
    'FastDetectionHook',
    'FiniteLossHook',
    'Float32BoxesHook',
    'LateRuntimeInfoHook',
    'LayerDecayOptimWrapperConstructor',
    'MaskAnnealingHook',
    'PicturesHook',
    'PlotRationalsHook',
    'PreemptionHook',
    'ResumableEpochLoop',
    'SeedIterationHook',
    'SegmentationKernelsHook',
    'TwoWarmupsPolyLR',
]
