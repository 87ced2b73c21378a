"""Reading checkpoints, those of other projects among them."""

from .load import (
    find_state_dict,
    keep_entries,
    load_pretrained,
    read_checkpoint,
    trust_mmengine_checkpoints,
)

__all__ = [
    'find_state_dict',
    'keep_entries',
    'load_pretrained',
    'read_checkpoint',
    'trust_mmengine_checkpoints',
]
