"""Checkpoints: reading and writing files, those of other projects among them; state dicts alone."""

from .convert import from_official, to_official
from .files import read_checkpoint, trust_mmengine_checkpoints, write_checkpoint
from .state_dict import find_state_dict

__all__ = [
    'find_state_dict',
    'from_official',
    'read_checkpoint',
    'to_official',
    'trust_mmengine_checkpoints',
    'write_checkpoint',
]
