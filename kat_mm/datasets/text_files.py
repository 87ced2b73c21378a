"""Lists in text files."""

import codecs
from pathlib import Path

from kat_mm.errors import UserError

_MARKS = {
    codecs.BOM_UTF8: 'begins with a byte-order mark',
    codecs.BOM_UTF16_LE: 'is in UTF-16',
    codecs.BOM_UTF16_BE: 'is in UTF-16',
}
_PACKED = b'\x1f\x8b', b'PK\x03\x04'


def read_text(path: str | Path) -> str:
    """Read a text file as OpenMMLab's data sets do, which know UTF-8 alone.

    Raises:
        UserError: It cannot be read, is compressed, has a byte-order mark, or is in another
            encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    if content.startswith(_PACKED):
        raise UserError(f'{path} is compressed (gzip or zip); unpack it')
    found = next((what for mark, what in _MARKS.items() if content.startswith(mark)), None)
    if found is None:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            found = f'is not in UTF-8: {error}'
    raise UserError(f'{path} {found}; save it as UTF-8 without a byte-order mark')
