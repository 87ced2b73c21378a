"""Files that are there whole or not at all, whatever ends the process that writes them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def replace_whole(temporary: Path, path: Path) -> None:
    """Put a written file in its place, such that even a power cut leaves the old or the new."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


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
    removed, and what was there before is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same, so that what a killed process left is written over.
    temporary = path.with_name(f'.{path.stem}.tmp{path.suffix}')
    try:
        yield temporary
        replace_whole(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
