"""Pages of images in rows: the truth and what several models predict, with one legend."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kat_mm.visualization.files import save_figure
from kat_mm.visualization.predictions import Classes

# Inches: of a picture, of the line of titles, of a row of the legend.
_WIDTH, _TITLE, _ROW = 3.2, 0.25, 0.21
_FONT, _TITLE_FONT = 9, 12


class Panel(NamedTuple):
    """An image (H, W, 3), RGB, uint8, and boxes (x1, y1, x2, y2) with their labels over it."""

    image: np.ndarray
    boxes: Sequence[tuple[Sequence[float], int]] = ()


def save_page(
    rows: Sequence[dict[str, Panel]],
    seen: Iterable[int],
    classes: Classes,
    out_file: str | Path,
    source: str | None = None,
) -> None:
    """Write a picture of rows of images below the titles of their columns.

    Args:
        rows: Title to image, the same titles in each row.
        seen: Labels that the legend has, in this order.
        classes: Names and colours.
        out_file: Where the picture goes; its ending gives the format.
        source: Whose images they are, as their licence wants it shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    titles = [textwrap.fill(title, _letters(_WIDTH, _TITLE_FONT)) for title in rows[0]]
    heights = [_height(next(iter(row.values())).image) for row in rows]
    handles = [
        Patch(facecolor=np.array(classes.color(i)) / 255, edgecolor='gray', label=classes.name(i))
        if classes.knows(i)
        else Patch(facecolor='white', edgecolor='gray', hatch='/////', label=classes.name(i))
        for i in seen
    ]
    width = _WIDTH * len(titles)
    # Beside its name an entry has a patch and space, about eight letters in all.
    longest = 8 + max((len(handle.get_label()) for handle in handles), default=0)
    columns = min(max(_letters(width, _FONT) // longest, 1), 6)
    legend = _ROW * -(-len(handles) // columns) + 0.2 + (_ROW if source else 0)
    lines = max(title.count('\n') + 1 for title in titles)
    height = sum(heights) + lines * _TITLE + legend + _TITLE / 2
    figure = Figure((width, height), layout='constrained')
    # Titles of several lines are higher than the layout takes them for.
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - _TITLE / 2 / height))
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for line, row in zip(axes, rows, strict=True):
        for axis, panel in zip(line, row.values(), strict=True):
            axis.imshow(panel.image)
            axis.set_axis_off()
            for (x1, y1, x2, y2), label in panel.boxes:
                color = np.array(classes.color(label)) / 255
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=_TITLE_FONT)
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=columns,
        frameon=False,
        title=source,
        fontsize=_FONT,
        title_fontsize=_FONT,
    )
    save_figure(figure, out_file, 100)


def _height(image: np.ndarray) -> float:
    """Inches of a row: the shape of its image, but for very wide and very tall ones."""
    return _WIDTH * min(max(len(image) / image.shape[1], 0.1), 2)


def _letters(inches: float, size: float) -> int:
    """How many letters of a font of some points have room: they are 0.6 as wide, on average."""
    return int(inches * 72 / (0.6 * size))
