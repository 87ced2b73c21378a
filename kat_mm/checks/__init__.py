"""What is checked before a run starts: what would otherwise fail late, or deep inside a library."""

from .checkpoint import check_checkpoint, check_pretrained
from .config import check_config
from .model import build_model, check_channels, check_initialisers
from .options import check_whole
from .prepare import prepare
from .work_dir import check_out_dir, check_work_dir

__all__ = [
    'build_model',
    'check_channels',
    'check_checkpoint',
    'check_config',
    'check_initialisers',
    'check_out_dir',
    'check_pretrained',
    'check_whole',
    'check_work_dir',
    'prepare',
]
