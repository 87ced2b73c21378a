"""Figures and images as files."""

from pathlib import Path

import numpy as np

from kat_mm.errors import UserError

_FULL_COLOUR = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def save_figure(figure, path: str | Path, dpi: int) -> None:
    """Write a matplotlib figure, and make the folder for it.

    Args:
        figure: The figure.
        path: The file; its ending gives the format.
        dpi: Pixels of an inch.

    Raises:
        UserError: It cannot be written, or its ending is of no format.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise UserError(f'cannot write {path}: its ending must be one of {", ".join(formats)}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}') from error


def write_image(path: str | Path, pixels: np.ndarray) -> None:
    """Write an image (H, W) or (H, W, 3), BGR, and make the folder for it.

    Args:
        path: The file; where its ending is that of a format without full colour, or of none, the
            image becomes a .png.
        pixels: The image.

    Raises:
        UserError: It cannot be written.
    """
    import cv2

    path = Path(path)
    if path.suffix.lower() not in _FULL_COLOUR:
        path = path.with_suffix('.png')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), np.ascontiguousarray(pixels))
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}') from error
    if not written:
        raise UserError(f'cannot write {path}: the folder is write-protected, or the disk is full')
