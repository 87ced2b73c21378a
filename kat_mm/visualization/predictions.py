"""Predictions drawn on their images, with a legend of the classes that are seen.

Pictures are RGB, uint8. An image below 480 pixels is enlarged, so that its writing can be read.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST_SIDE = 480
_GREY = (128, 128, 128)
# Luminance of ITU-R BT.601.
_LUMINANCE = np.array((0.299, 0.587, 0.114))
# Colours nearer than this in RGB, weighted by what is seen of each part, look alike once they are
# mixed with an image; of many, so far apart there is no room for, _ROOM divided by the cube root of
# their number.
_NEAR, _ROOM = 60, 160


class Shape(NamedTuple):
    """One object: label, score or None, box (x1, y1, x2, y2) or None, mask (H, W) or None."""

    label: int
    score: float | None = None
    box: Sequence[float] | None = None
    mask: np.ndarray | None = None


class Classes:
    """Names and colours of classes; what lies outside of them is unlabelled.

    Args:
        names: Their names; without, numbers stand for them.
        palette: RGB of each; without, colours are drawn that stay the same from run to run. Of
            colours that look alike the first one stays.
    """

    def __init__(self, names: Sequence[str] | None = None, palette: Sequence | None = None):
        self.names = names
        self.palette = None if isinstance(palette, str) else palette  # such as 'random'

    @classmethod
    def of(cls, meta: dict, known: dict) -> 'Classes':
        """Classes of a data set's ``metainfo``.

        Args:
            meta: It.
            known: The ``METAINFO`` of its class: what is chosen from its classes has its colours.
        """
        names, palette = meta.get('classes') or known.get('classes'), meta.get('palette')
        usual = known.get('palette')
        if isinstance(usual, Sequence) and palette in (None, usual):
            table = dict(zip(known.get('classes') or (), usual, strict=False))
            palette = [table.get(name, cls().color(i)) for i, name in enumerate(names or ())]
        return cls(names, palette)

    def name(self, label: int) -> str:
        """The name of a label; its number where there are no names."""
        if self.names is None:
            return str(label)
        return self.names[label] if self.knows(label) else 'unlabelled'

    def knows(self, label: int) -> bool:
        """Whether a label is a class: 255 and what lies beyond the names is none."""
        return label != 255 if self.names is None else 0 <= label < len(self.names)

    def color(self, label: int) -> tuple[int, int, int]:
        """RGB of a label."""
        if not self.knows(label):
            return _GREY
        if label < len(self._colors):
            return self._colors[label]
        return self._given(label)

    @functools.cached_property
    def _colors(self) -> list[tuple[int, int, int]]:
        count = len(self.palette or ()) if self.names is None else len(self.names)
        return _told_apart([self._given(label) for label in range(count)])

    def _given(self, label: int) -> tuple[int, int, int]:
        if isinstance(self.palette, Sequence) and label < len(self.palette):
            return tuple(int(value) for value in self.palette[label])
        return tuple(np.random.default_rng(label).integers(40, 256, 3).tolist())


def _told_apart(colors: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Colours in which one near to an earlier one gives way to the next that is far from all."""
    levels = np.linspace(0, 255, 11)
    candidates = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    weights = np.sqrt(3 * _LUMINANCE)
    candidates = candidates * weights
    taken = np.array([*colors, _GREY, (255, 255, 255), (0, 0, 0)]) * weights
    near = min(_NEAR, _ROOM / max(len(colors), 1) ** (1 / 3))
    for i in range(1, len(colors)):
        if np.linalg.norm(taken[:i] - taken[i], axis=1).min() < near:
            others = np.delete(taken, i, axis=0)
            apart = np.linalg.norm(candidates[:, None] - others, axis=2).min(1)
            moved = np.linalg.norm(candidates - taken[i], axis=1)
            far = apart >= near
            place = np.where(far, moved, np.inf).argmin() if far.any() else apart.argmax()
            taken[i] = candidates[place]
    colors = (taken[: len(colors)] / weights).round().astype(int)
    return [tuple(color) for color in colors.tolist()]


def draw_labels(image: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """A label map (H, W) over its image, regions outlined, unlabelled ones hatched.

    The legend has the share of the image that each class takes.
    """
    seen, counts = np.unique(labels, return_counts=True)
    picture = _enlarged(image)
    size = picture.shape[1::-1]
    large = cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    for label in seen.tolist():
        _fill(picture, large == label, classes, label)
    edges = np.zeros(large.shape, bool)
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    edges[1:] |= large[1:] != large[:-1]
    picture[edges] = 255
    order = np.argsort(-counts)
    entries = [(int(seen[i]), f' {100 * counts[i] / labels.size:.1f} %') for i in order]
    return _with_legend(picture, entries, classes)


def draw_shapes(image: np.ndarray, shapes: Sequence[Shape], classes: Classes) -> np.ndarray:
    """Objects over their image: masks with outlines, boxes, class and score of each.

    The legend has the number of objects of each class.
    """
    picture = _enlarged(image)
    factor = picture.shape[1] / image.shape[1]
    size = picture.shape[1::-1]
    thick = max(2, round(max(size) / 400))
    # The largest first, so that what lies on something else is seen.
    masks = [shape for shape in shapes if shape.mask is not None]
    for shape in sorted(masks, key=lambda one: -one.mask.sum()):
        mask = cv2.resize(shape.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        _fill(picture, mask.astype(bool), classes, shape.label)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, classes.color(shape.label), thick)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = _font(_text_size(size))
    # The best are written last, above the others.
    for shape in sorted(shapes, key=lambda one: one.score or 0):
        text = classes.name(shape.label)
        if shape.score is not None:
            text += f' {shape.score:.2f}'
        color = classes.color(shape.label)
        if shape.box is not None:
            x1, y1, x2, y2 = (factor * value for value in shape.box)
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=thick)
        elif shape.mask is not None and shape.mask.any():
            x1, y1 = (factor * (value + 0.5) for value in _innermost(shape.mask))
            _, _, width, height = draw.textbbox((0, 0), text, font)
            x1, y1 = x1 - width / 2, y1 + height / 2
        else:
            continue
        _write(draw, (x1, y1), text, color, font, size)
    labels = [shape.label for shape in shapes]
    entries = [(label, f': {labels.count(label)}') for label in dict.fromkeys(sorted(labels))]
    return _with_legend(np.array(canvas), entries, classes)


def draw_scores(
    image: np.ndarray, scores: np.ndarray, classes: Classes, truth: int | None = None, top: int = 5
) -> np.ndarray:
    """The best classes of an image below it, each with a bar of its score (classes,)."""
    picture = _enlarged(image)
    width = picture.shape[1]
    size = _text_size(picture.shape[1::-1])
    font, row = _font(size), round(1.7 * size)
    best = np.argsort(-scores)[:top].tolist()
    lines = len(best) + (truth is not None)
    strip = Image.new('RGB', (width, row * lines + size // 2), 'white')
    draw = ImageDraw.Draw(strip)
    for number, label in enumerate(best):
        top_edge = number * row + size // 2
        filled = round((width - 1) * float(scores[label]))
        fill = (178, 223, 190) if truth == label else (190, 210, 240)
        draw.rectangle((0, top_edge, filled, top_edge + row - 3), fill=fill)
        share = f'{100 * float(scores[label]):.1f} %'
        room = width - draw.textlength(share, font) - 3 * size
        text = _shortened(draw, classes.name(label), font, room)
        draw.text((size // 2, top_edge), text, 'black', font)
        draw.text((width - draw.textlength(share, font) - 4, top_edge), share, 'black', font)
    if truth is not None:
        text = _shortened(draw, f'truth: {classes.name(truth)}', font, width - size)
        draw.text((size // 2, len(best) * row + size // 2), text, 'black', font)
    return np.concatenate([picture, np.array(strip)])


def draw_title(image: np.ndarray, title: str) -> np.ndarray:
    """An image below its title."""
    return side_by_side({title: _enlarged(image)})


def side_by_side(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Pictures in a row, each below its title."""
    height = max(len(picture) for picture in pictures.values())
    size = 2 + _text_size((height, min(picture.shape[1] for picture in pictures.values())))
    columns = []
    for title, picture in pictures.items():
        column = Image.new('RGB', (picture.shape[1] + 8, height + 2 * size), 'white')
        draw, font = ImageDraw.Draw(column), _font(size)
        text = _shortened(draw, title, font, column.width - 8)
        draw.text((column.width / 2, size), text, 'black', font, anchor='mm')
        column.paste(Image.fromarray(picture), (4, 2 * size))
        columns.append(np.array(column))
    return np.concatenate(columns, axis=1)


def _enlarged(image: np.ndarray) -> np.ndarray:
    factor = -(-_LEAST_SIDE // max(image.shape[:2]))
    if factor <= 1:
        return image.copy()
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def _fill(picture: np.ndarray, where: np.ndarray, classes: Classes, label: int) -> None:
    """Tint a region; what is unlabelled gets a grey hatching."""
    if not classes.knows(label):
        rows, columns = np.indices(where.shape, sparse=True)
        where = where & ((rows + columns) % 12 < 4)
    color = np.array(classes.color(label))
    picture[where] = (0.5 * picture[where] + 0.5 * color).astype(np.uint8)


def _innermost(mask: np.ndarray) -> tuple[int, int]:
    """Column and row of the pixel that is farthest from the border of a mask."""
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(inside.argmax(), mask.shape)
    return int(column), int(row)


def _write(draw, corner: tuple[float, float], text: str, color: tuple, font, size: tuple) -> None:
    """Text on a plate in its colour, above a corner, and always inside of the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height
    y = min(y if y >= 0 else corner[1], size[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 2 - left, y + 2 - top), text, _readable_on(color), font)


def _with_legend(picture: np.ndarray, entries: list[tuple[int, str]], classes: Classes):
    """A picture with a strip below it: box, name and number of each class, as rows have room."""
    width = picture.shape[1]
    size = _text_size(picture.shape[1::-1])
    font, row = _font(size), round(1.6 * size)
    measure = ImageDraw.Draw(Image.new('RGB', (1, 1)))
    places, x, y = [], size // 2, size // 2
    for label, number in entries:
        room = width - 3 * size - measure.textlength(number, font)
        text = _shortened(measure, classes.name(label), font, room) + number
        needed = 2 * size + round(measure.textlength(text, font))
        if x + needed > width and x > size // 2:
            x, y = size // 2, y + row
        places.append((x, y, text, label))
        x += needed + size // 2
    if not places:
        places = [(x, y, 'nothing found', None)]
    strip = Image.new('RGB', (width, y + row), 'white')
    draw = ImageDraw.Draw(strip)
    for x, y, text, label in places:
        if label is not None:
            box = np.full((size, size, 3), 255, np.uint8)
            if classes.knows(label):
                box[:] = classes.color(label)
            else:
                _fill(box, np.ones((size, size), bool), classes, label)
            strip.paste(Image.fromarray(box), (x, y))
            draw.rectangle((x, y, x + size, y + size), outline='black')
            x += round(1.4 * size)
        draw.text((x, y + size / 2), text, 'black', font, anchor='lm')
    return np.concatenate([picture, np.array(strip)])


def _shortened(draw, text: str, font, room: float) -> str:
    """Text that fits; its end is left out where there is no room for it."""
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + '…', font) > room:
        text = text[:-1]
    return text + '…'


def _text_size(size: tuple[int, int]) -> int:
    return max(13, round(min(size) / 32))


def _readable_on(color: tuple[int, int, int]) -> str:
    return 'black' if np.dot(color, _LUMINANCE) > 140 else 'white'


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, which has the letters of most alphabets."""
    from matplotlib import get_data_path

    return ImageFont.truetype(f'{get_data_path()}/fonts/ttf/DejaVuSans.ttf', size)
