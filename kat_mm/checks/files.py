"""Files below a folder."""

import os
from pathlib import Path

from kat_mm.errors import UserError

# Of images, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm')


def list_files(folder: str | Path) -> tuple[list[str], list[str]]:
    """List the files below a folder as mmengine does, which leaves out hidden ones.

    Returns:
        Their paths relative to the folder, and those of links whose target does not exist, which
        mmengine leaves out too.

    Raises:
        UserError: A folder may not be read, or links lead in a circle.
    """
    files, broken = [], []
    try:
        _list(str(folder), '', files, broken)
    except OSError as error:
        raise UserError(
            f'{error.filename} cannot be read: {error.strerror}; mend or remove it'
        ) from error
    return files, broken


def _list(folder: str, prefix: str, files: list[str], broken: list[str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                _list(entry.path, f'{name}/', files, broken)
            elif entry.name.startswith('.'):
                continue
            elif entry.is_file():
                files.append(name)
            else:
                broken.append(name)
