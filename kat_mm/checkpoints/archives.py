"""Archives, as which PyTorch and NumPy write: how much is in them, and whether it is whole."""

import os
import zipfile
import zlib

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


def check_checksums(path: str | os.PathLike) -> None:
    """Refuse a zip archive that is not what was written: PyTorch reads weights without a look.

    Args:
        path: A file; one that is no archive is left to who reads it.

    Raises:
        UserError: A checksum in it does not hold.
    """
    try:
        damaged = damaged_member(path)
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    if damaged is not None:
        raise UserError(
            f'checkpoint {path} is damaged: the checksum of {damaged} in it does not hold. Copy or '
            'download it again'
        )


def damaged_member(path: str | os.PathLike) -> str | None:
    """The first file of a zip archive whose checksum does not hold.

    Raises:
        zipfile.BadZipFile: It is no archive, or a truncated one.
    """
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # 0 is none: torch.serialization.set_crc32_options(False).
            if info.CRC and not _is_whole(archive, info):
                return info.filename
    return None


def _is_whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as member:
            while member.read(2**20):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return False
    return True
