"""Sample data, checked loading and reproducible augmentation, registered for all tasks."""

from .checks import CheckLabels, LoadChecked, check_loading
from .seeding import SeedAugmentation, SeededAspectRatioSampler, SeededInfiniteSampler

__all__ = [
    'CheckLabels',
    'LoadChecked',
    'SeedAugmentation',
    'SeededAspectRatioSampler',
    'SeededInfiniteSampler',
    'check_loading',
]
