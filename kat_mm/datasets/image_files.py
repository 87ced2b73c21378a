"""What the headers of image files say, without decoding them."""

import os
from pathlib import Path

from PIL import Image

# Values of EXIF's orientation with which rows and columns change places.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258  # TIFF's tag


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as OpenCV decodes it, which follows EXIF's orientation.

    Raises:
        OSError: It is no image.
    """
    with Image.open(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def is_turned(path: str | Path) -> bool:
    """Whether EXIF's orientation exchanges width and height of an image."""
    with Image.open(path) as image:
        return image.getexif().get(_ORIENTATION) in _TURNED


def bits_per_channel(path: str | Path) -> int:
    """Bits of each value in an image; Pillow's modes do not tell 16-bit colours.

    Raises:
        OSError: It is no image.
    """
    with open(path, 'rb') as file:
        beginning = file.read(25)
    if beginning.startswith(b'\xff\xd8'):  # JPEG
        return 8
    if beginning.startswith(b'\x89PNG'):
        return beginning[24] if len(beginning) == 25 else 8
    with Image.open(path) as image:
        if image.format == 'TIFF':
            return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        return 16 if image.mode.startswith('I') else 8


def file_problem(path: str | Path) -> str | None:
    """Why a file cannot be read, before its content is looked at; None where it can."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        return f'is a link to {os.readlink(path)}, which does not exist'
    if not path.exists():
        return 'does not exist'
    if path.is_dir():
        return 'is a folder'
    if not path.stat().st_size:
        return 'is empty (0 bytes)'
    return None
