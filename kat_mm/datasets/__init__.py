"""Sample data, checked loading and reproducible augmentation, registered for all tasks."""

from .aspect_ratio import SeededAspectRatioSampler
from .checks import CheckLabels, LoadChecked, check_loading
from .seeding import SeedAugmentation, SeededInfiniteSampler
from .torchvision_arrays import TorchvisionArrays

__all__ = [
    'CheckLabels',
    'LoadChecked',
    'SeedAugmentation',
    'SeededAspectRatioSampler',
    'SeededInfiniteSampler',
    'TorchvisionArrays',
    'check_loading',
]
