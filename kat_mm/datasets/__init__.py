"""Checked loading and reproducible augmentation, registered for all tasks."""

from .aspect_ratio import SeededAspectRatioSampler
from .collate import compact_collate, packed_collate
from .loading import CheckLabels, LoadChecked, ResizeChecked, check_loading
from .seeding import SeedAugmentation, SeededInfiniteSampler, SeededSampler
from .torchvision_arrays import TorchvisionArrays

__all__ = [
    'CheckLabels',
    'LoadChecked',
    'ResizeChecked',
    'SeedAugmentation',
    'SeededAspectRatioSampler',
    'SeededInfiniteSampler',
    'SeededSampler',
    'TorchvisionArrays',
    'check_loading',
    'compact_collate',
    'packed_collate',
]
