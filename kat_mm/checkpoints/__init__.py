"""Checkpoints: reading and writing files, those of other projects among them; state dicts alone."""

from .convert import from_official, to_kat, to_official
from .files import read_checkpoint, write_checkpoint
from .state_dict import find_state_dict
from .trust import guard_files_of, guard_readers, trust_files

__all__ = [
    'find_state_dict',
    'from_official',
    'guard_files_of',
    'guard_readers',
    'read_checkpoint',
    'to_kat',
    'to_official',
    'trust_files',
    'write_checkpoint',
]


def __getattr__(name: str):
    # Scripts of others import these two from here; looked up late, since the backbone, which loads
    # files into models, imports this package and not the other way round.
    if name in ('convert_for_model', 'load_pretrained'):
        from kat_mm import backbones

        return getattr(backbones, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
