"""Sample data, checked loading and reproducible augmentation, registered for all tasks."""

from .aspect_ratio import SeededAspectRatioSampler
from .checks import CheckLabels, LoadChecked, check_loading
from .seeding import SeedAugmentation, SeededInfiniteSampler

__all__ = [
    'CheckLabels',
    'LoadChecked',
    'SeedAugmentation',
    'SeededAspectRatioSampler',
    'SeededInfiniteSampler',
    'check_loading',
]
