"""Sample data, checked loading and reproducible augmentation, registered for all tasks."""

from .aspect_ratio import SeededAspectRatioSampler
from .checks import CheckLabels, LoadChecked, check_loading
from .collate import compact_collate
from .seeding import SeedAugmentation, SeededInfiniteSampler, SeededSampler
from .torchvision_arrays import TorchvisionArrays

__all__ = [
    'CheckLabels',
    'LoadChecked',
    'SeedAugmentation',
    'SeededAspectRatioSampler',
    'SeededInfiniteSampler',
    'SeededSampler',
    'TorchvisionArrays',
    'check_loading',
    'compact_collate',
]
