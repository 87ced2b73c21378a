"""What is checked before a run starts: what would otherwise fail late, or deep inside a library."""

from .config import (
    build_model,
    check_arguments,
    check_checkpoint,
    check_config,
    check_dataset,
    check_pretrained,
    check_work_dir,
    config_errors,
    latest_checkpoint,
)

__all__ = [
    'build_model',
    'check_arguments',
    'check_checkpoint',
    'check_config',
    'check_dataset',
    'check_pretrained',
    'check_work_dir',
    'config_errors',
    'latest_checkpoint',
]
