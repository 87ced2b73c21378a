"""The folder that a run writes to."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from torch import nn

from kat_mm.errors import UserError


def check_work_dir(work_dir: str, model: nn.Module) -> None:
    """Write once to where the work folder is or will be, before hours of training depend on it."""
    folder = Path(work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        why = 'the disk is full' if error.errno == errno.ENOSPC else error.strerror
        raise UserError(
            f'cannot write to the work folder {work_dir}: {why}; name another one with --work-dir'
        ) from error
    # A checkpoint holds the weights, and AdamW's two moments of each.
    needed = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f'the work folder {work_dir} has {free / 1e6:.0f} MB free, and one checkpoint takes '
            f'about {needed / 1e6:.0f} MB; make room, or name another folder with --work-dir'
        )


def check_out_dir(path: str | None, option: str) -> None:
    """Refuse a folder for results that is a file, or lies below one, before hours of work.

    Args:
        path: The folder, which need not exist; None where there is none.
        option: The option of the command line that names it.

    Raises:
        UserError: It cannot be a folder.
    """
    for folder in [Path(path), *Path(path).parents] if path else ():
        if folder.exists() and not folder.is_dir():
            raise UserError(f'{option} {path}: {folder} is a file; name a folder')
