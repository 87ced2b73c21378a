"""Reading and writing checkpoints, those of other projects among them."""

from .convert import from_official, to_official
from .files import read_checkpoint, trust_mmengine_checkpoints, write_checkpoint
from .load import convert_for_model, load_pretrained
from .state_dict import find_state_dict

__all__ = [
    'convert_for_model',
    'find_state_dict',
    'from_official',
    'load_pretrained',
    'read_checkpoint',
    'to_official',
    'trust_mmengine_checkpoints',
    'write_checkpoint',
]
