"""Files that are there whole or not at all, whatever ends the process that writes them."""

import contextlib
import glob
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from kat_mm.errors import UserError

# Seconds without a written byte, after which a temporary file is of a process that is gone.
_STALE = 3600


def replace_whole(temporary: Path, path: Path) -> None:
    """Put a written file in its place, such that even a power cut leaves the old or the new."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def check_inside(path: Path, root: Path) -> None:
    """Refuse to write to a place that a link in somebody's folder leads out of it.

    Args:
        path: What is to be written.
        root: The folder that it is to be in, which may be a link itself.

    Raises:
        UserError: It lies elsewhere.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f'{path} is a link to {path.resolve()}, outside of {root}; remove the link')


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A path of the same ending to write to, in the same folder, which is made.

    The file takes the place of ``path`` at the end of the block. Where the block fails, it is
    removed, and what was there before is left. Of several processes that write one file at once,
    each has a path of its own, and the last to end leaves its file. What a killed process left is
    removed by the next one that writes this file an hour later or more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f'.{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}')
    try:
        yield temporary
        replace_whole(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_stale(path: Path) -> None:
    # By age: the number of a process says nothing about one of another host or container.
    pattern = f'.{glob.escape(path.stem)}.{"[0-9a-f]" * 8}.tmp{glob.escape(path.suffix)}'
    for left_over in path.parent.glob(pattern):
        with contextlib.suppress(OSError):  # another process is quicker
            if time.time() - left_over.stat().st_mtime > _STALE:
                left_over.unlink()
