"""Checkpoints: reading and writing files, those of other projects among them; state dicts alone."""

from .convert import from_official, to_official
from .files import read_checkpoint, write_checkpoint
from .state_dict import find_state_dict
from .trust import guard_files_of, trust_files

__all__ = [
    'find_state_dict',
    'from_official',
    'guard_files_of',
    'read_checkpoint',
    'to_official',
    'trust_files',
    'write_checkpoint',
]
