"""Archives, as which PyTorch and NumPy write: how much is in them, before it is unpacked."""

import os
import zipfile

from kat_mm.errors import UserError

# PyTorch compresses nothing, and weights are compressed to nine tenths.
_MOST_TIMES = 50
_MUCH = 2**30


def check_archive(path: str | os.PathLike) -> None:
    """Refuse a zip archive that fills the memory: of many times the file's size.

    Args:
        path: A file; one that is no archive, or a damaged one, is left to who reads it.

    Raises:
        UserError: It unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    packed = os.path.getsize(path)
    if size > max(_MUCH, _MOST_TIMES * packed):
        raise UserError(
            f'checkpoint {path} has {packed / 1e6:.1f} MB, of which {size / 1e9:.0f} GB are to be '
            'unpacked: these are no weights. Get it from elsewhere'
        )
