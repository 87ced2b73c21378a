"""What a run says in the terminal: what its user needs, and all else in its log file."""

import logging
import warnings
from types import ModuleType

from mmengine.logging import MMLogger

from kat_mm.installed import after_import

# Beginnings of what the log file gets alone: environment, config and hooks, and what the libraries
# say of each other.
_FILE_ALONE = (
    '\n-----',
    'Config:\n',
    'Hooks will be executed',
    'Distributed training is not used, all SyncBatchNorm',
    'parameter group: ',
    'Exp name: ',
    'Detection: without waiting for the GPU: ',
    'The prefix is not set in metric class',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)
# Beginnings, as regular expressions, of Python's warnings that ask a user of ours for nothing.
_WARNINGS = (
    'Default ``avg_non_ignore`` is False',
    'The draw is False',
    'faster_coco_eval is not installed',
    # torch.load of a program that it has just written.
    'The given buffer is not writable',
)


class _ForTerminal(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_FILE_ALONE)


def quiet_terminal(logger: MMLogger) -> None:
    """Leave out of a logger's terminal what its file gets alone."""
    for handler in logger.handlers:
        # A file's is a StreamHandler too.
        if type(handler) is logging.StreamHandler:
            handler.addFilter(_ForTerminal())


def quiet_dependencies() -> None:
    """Leave out, for this process, what libraries print and warn of."""
    for beginning in _WARNINGS:
        warnings.filterwarnings('ignore', beginning)
    # On a machine with a CUDA toolkit and no GPU.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
    after_import('pycocotools.coco', _print_tables_alone)
    after_import('pycocotools.cocoeval', _print_tables_alone)
    after_import('mmdet.datasets.api_wrappers.coco_api', _print_tables_alone)


def _print_tables_alone(module: ModuleType) -> None:
    """Of COCO's code, the lines of its results begin with a space, and those of progress do not."""

    def print_line(*values) -> None:
        if str(values[0]).startswith(' '):
            print(*values)

    vars(module)['print'] = print_line
