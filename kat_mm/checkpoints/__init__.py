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
    # Where scripts of others look for them: loading into a model is a matter of the backbone, which
    # imports this package, not the other way round.
    if name in ('convert_for_model', 'load_pretrained'):
        from kat_mm import backbones

        return getattr(backbones, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
