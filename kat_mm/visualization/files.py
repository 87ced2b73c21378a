"""Figures as files."""

from pathlib import Path

from kat_mm.errors import UserError


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
