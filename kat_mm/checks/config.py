"""What a config says, before a run starts."""

import os

from mmengine.config import Config
from mmengine.registry import init_default_scope

from kat_mm.checks.arguments import check_config_arguments
from kat_mm.checks.data import check_data
from kat_mm.checks.libraries import check_compiled_operators, check_library, needs_mmdet
from kat_mm.checks.settings import check_settings

_LOCAL_RANKS = {
    'pytorch': 'LOCAL_RANK',
    'slurm': 'SLURM_LOCALID',
    'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK',
}


def check_config(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check what a config says, and the data that it names.

    Data are looked at by one process of each machine; the others wait for it where the processes
    meet, as the runner is built.

    Args:
        cfg: The config, with all options of the command line merged.
        splits: Whose data is needed, from 'train', 'val' and 'test'.

    Raises:
        UserError: A key is misspelt, a value is of a wrong type or out of range, or data are
            missing, damaged, or do not fit the model.
    """
    if needs_mmdet(cfg):
        check_compiled_operators()
    check_library(cfg)
    # Names in the config are those of its scope.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_settings(cfg)
    check_config_arguments(cfg)
    if int(os.environ.get(_LOCAL_RANKS.get(cfg.get('launcher'), ''), 0)) == 0:
        check_data(cfg, splits)
