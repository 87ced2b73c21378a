"""Predictions drawn on their images, with a legend of the classes that are seen.

Pictures are RGB, uint8. An image below 480 pixels is enlarged, so that its writing can be read, and
one that is too narrow for writing stands on white.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST_SIDE, _LEAST_WIDTH = 480, 240
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


def draw_labels(
    image: np.ndarray, labels: np.ndarray, classes: Classes, legend_rows: int | None = None
) -> np.ndarray:
    """A label map (H, W) over its image, regions outlined, unlabelled ones hatched.

    The legend has the share of the image that each class takes, and as many rows as it needs, or
    ``legend_rows``.
    """
    seen, counts = np.unique(labels, return_counts=True)
    picture = _enlarged(image)
    size = picture.shape[1::-1]
    large = cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    for label in seen.tolist():
        fill(picture, large == label, classes, label)
    edges = np.zeros(large.shape, bool)
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    edges[1:] |= large[1:] != large[:-1]
    picture[edges] = 255
    order = np.argsort(-counts)
    entries = [(int(seen[i]), f' {100 * counts[i] / labels.size:.1f} %') for i in order]
    return _with_legend(_widened(picture), entries, classes, legend_rows)


def draw_shapes(
    image: np.ndarray, shapes: Sequence[Shape], classes: Classes, legend_rows: int | None = None
) -> np.ndarray:
    """Objects over their image: masks with outlines, boxes, class and score of each.

    Where objects are so many that not all can be named, the best are. The legend has the number of
    objects of each class, and as many rows as it needs, or ``legend_rows``.
    """
    picture = _enlarged(image)
    factor = picture.shape[1] / image.shape[1]
    size = picture.shape[1::-1]
    thick = max(2, round(min(size) / 250))
    # The largest first, so that what lies on something else is seen.
    masks = [shape for shape in shapes if shape.mask is not None]
    for shape in sorted(masks, key=lambda one: -one.mask.sum()):
        mask = cv2.resize(shape.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        fill(picture, mask.astype(bool), classes, shape.label)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, classes.color(shape.label), thick)
    canvas = Image.fromarray(_widened(picture))
    draw = ImageDraw.Draw(canvas)
    # The best last, above the others.
    ranked = sorted(shapes, key=lambda one: one.score or 0)
    for shape in ranked:
        if shape.box is not None:
            x1, y1, x2, y2 = (factor * value for value in shape.box)
            color = classes.color(shape.label)
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=thick)
    plates = _Plates(draw, canvas.size, _font(_text_size(size)))
    for shape in reversed(ranked):
        score = '' if shape.score is None else f' {shape.score:.2f}'
        place = shape.box if shape.box is not None else _innermost(shape.mask)
        if place is not None:
            place = [factor * value for value in place]
            plates.write(place, classes.name(shape.label), score, classes.color(shape.label))
    counts = Counter(sorted(shape.label for shape in shapes)).most_common()
    entries = [(label, f': {count}') for label, count in counts]
    return _with_legend(np.array(canvas), entries, classes, legend_rows)


def draw_scores(
    image: np.ndarray, scores: np.ndarray, classes: Classes, truth: int | None = None, top: int = 5
) -> np.ndarray:
    """The best classes of an image below it, each with a bar of its score (classes,)."""
    picture = _widened(_enlarged(image))
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


def fill(
    picture: np.ndarray, where: np.ndarray, classes: Classes, label: int, opacity: float = 0.5
) -> None:
    """Tint a region; what is unlabelled gets stripes, light and dark, seen on any image."""
    if classes.knows(label):
        _tint(picture, where, classes.color(label), opacity)
        return
    rows, columns = np.indices(where.shape, sparse=True)
    stripe = (rows + columns) % 12 // 3
    for number, grey in enumerate((255, 0)):
        _tint(picture, where & (stripe == number), (grey, grey, grey), 0.5)


def draw_title(image: np.ndarray, title: str) -> np.ndarray:
    """An image below its title."""
    return side_by_side({title: _widened(_enlarged(image))})


def side_by_side(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Pictures in a row, wide ones in a column, each below its title."""
    height = max(len(picture) for picture in pictures.values())
    width = max(picture.shape[1] for picture in pictures.values())
    size = 2 + _text_size((height, width))
    parts = []
    for title, picture in pictures.items():
        part = Image.new('RGB', (width + 8, height + 2 * size), 'white')
        draw, font = ImageDraw.Draw(part), _font(size)
        text = _shortened(draw, title, font, width)
        draw.text((part.width / 2, size), text, 'black', font, anchor='mm')
        part.paste(Image.fromarray(picture), (4, 2 * size))
        parts.append(np.array(part))
    return np.concatenate(parts, axis=0 if width > 2 * height else 1)


def _enlarged(image: np.ndarray) -> np.ndarray:
    factor = -(-_LEAST_SIDE // max(image.shape[:2]))
    if factor <= 1:
        return image.copy()
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def _widened(picture: np.ndarray) -> np.ndarray:
    """A picture with white at its right, where it has no room for writing."""
    missing = max(_LEAST_WIDTH - picture.shape[1], 0)
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)


def _tint(
    picture: np.ndarray, where: np.ndarray, color: tuple[int, int, int], opacity: float
) -> None:
    mixed = (1 - opacity) * picture[where] + opacity * np.array(color)
    picture[where] = mixed.astype(np.uint8)


def _innermost(mask: np.ndarray | None) -> list[float] | None:
    """The place in a mask that is farthest from its border, as a box without size."""
    if mask is None or not mask.any():
        return None
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(inside.argmax(), mask.shape)
    return [int(column) + 0.5, int(row) + 0.5] * 2


class _Plates:
    """Text on plates, none of which covers another or is cut by an edge of the picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], font):
        self.draw, self.size, self.font = draw, size, font
        ascent, descent = font.getmetrics()
        self.height = ascent + descent
        self._taken = np.zeros((0, 4))

    def write(self, box: Sequence[float], name: str, score: str, color: tuple) -> None:
        """Write above a box, or else from its upper end on to below it; not at all without room.

        A box without size is a place, on which the text is centred.
        """
        room = self.size[0] - 4 - self.draw.textlength(score, self.font)
        text = _shortened(self.draw, name, self.font, room) + score
        width = self.draw.textlength(text, self.font) + 4
        x1, y1, x2, y2 = box
        if (x1, y1) == (x2, y2):
            x1, y1, y2 = x1 - width / 2, y1 + self.height / 2, y1 + self.height / 2
        x = min(max(x1, 0), self.size[0] - width)
        for y in np.arange(y1 - self.height, y2 + self.height, self.height):
            y = min(max(y, 0), self.size[1] - self.height)
            plate = x, y, x + width, y + self.height
            if self._is_free(plate):
                break
        else:
            return
        self._taken = np.vstack([self._taken, plate])
        self.draw.rectangle(plate, fill=color)
        self.draw.text((x + 2, y), text, _readable_on(color), self.font)

    def _is_free(self, plate: tuple[float, float, float, float]) -> bool:
        x1, y1, x2, y2 = self._taken.T
        beside = (x2 <= plate[0]) | (plate[2] <= x1) | (y2 <= plate[1]) | (plate[3] <= y1)
        return bool(beside.all())


def _with_legend(
    picture: np.ndarray, entries: list[tuple[int, str]], classes: Classes, rows: int | None = None
) -> np.ndarray:
    """A picture with a strip below it: box, name and number of each class, as rows have room.

    Of a fixed number of rows the last one says how many classes have no room.
    """
    width = picture.shape[1]
    size = _text_size(picture.shape[1::-1])
    font, row = _font(size), round(1.6 * size)
    measure = ImageDraw.Draw(Image.new('RGB', (1, 1)))
    left = top = size // 2
    places, x, y = [], left, top
    for index, (label, number) in enumerate(entries):
        rest = f'and {len(entries) - index} more'
        is_last_row = rows is not None and y >= top + (rows - 1) * row
        kept = measure.textlength(rest, font) + left if is_last_row and entries[index + 1 :] else 0
        room = width - 3 * size - measure.textlength(number, font) - kept
        text = _shortened(measure, classes.name(label), font, room) + number
        needed = 2 * size + round(measure.textlength(text, font))
        if x + needed + kept > width and x > left:
            if is_last_row:
                places.append((x, y, rest, None))
                break
            x, y = left, y + row
        places.append((x, y, text, label))
        x += needed + size // 2
    if not places:
        places = [(x, y, 'nothing found', None)]
    height = row * rows + top if rows is not None else y + row
    strip = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(strip)
    for x, y, text, label in places:
        if label is not None:
            box = np.full((size, size, 3), 255, np.uint8)
            if classes.knows(label):
                box[:] = classes.color(label)
            else:
                fill(box, np.ones((size, size), bool), classes, label)
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
