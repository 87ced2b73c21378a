"""What image files say of themselves: in their headers, and while they are decoded."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Values of EXIF's orientation with which rows and columns change places.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258  # TIFF's tag


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """``PIL.Image.open``, whose error of very many pixels is one of the file, as its others are.

    Raises:
        OSError: It is no image, or has more pixels than Pillow opens.
    """
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise OSError(f'it has too many pixels for one image: {error}') from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as OpenCV decodes it, which follows EXIF's orientation.

    Raises:
        OSError: It is no image.
    """
    with open_image(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def is_turned(path: str | Path) -> bool:
    """Whether EXIF's orientation exchanges width and height of an image."""
    with open_image(path) as image:
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
    with open_image(path) as image:
        if image.format == 'TIFF':
            return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        return 16 if image.mode.startswith('I') else 8


def jpeg_problem(path: str | Path) -> str | None:
    """What libjpeg complains of in a JPEG that it decodes nonetheless, with pixels made up.

    It says so on the standard error of the process, where nobody knows which file it speaks of.
    """
    with open(path, 'rb') as file:
        return decoding_problem(file.read())


def decoding_problem(content: bytes) -> str | None:
    """As :func:`jpeg_problem`, of an image file's content."""
    if not content.startswith(b'\xff\xd8'):
        return None
    with _captured_stderr() as said:
        # The entropy decoder, which finds the damage, reads all of it.
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    found = re.search(rb'(Corrupt JPEG data|Premature end of JPEG).*', said[0])
    return found[0].decode(errors='replace').strip() if found else None


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[bytes]]:
    """What libraries of C write to standard error; it is in the list at the end."""
    said = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read())


def file_problem(path: str | Path) -> str | None:
    """Why a file cannot be read, before its content is looked at; None where it can."""
    path = Path(path)
    try:
        if path.is_symlink() and not path.exists():
            return f'is a link to {os.readlink(path)}, which does not exist'
        if not path.exists():
            return 'does not exist'
        if path.is_dir():
            return 'is a folder'
        if not path.stat().st_size:
            return 'is empty (0 bytes)'
    except OSError as error:  # of a name that is too long, of links in a circle
        return f'cannot be read: {error.strerror}'
    return None
