"""Annotation files in COCO's layout, as they are read."""

import json
import math
import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kat_mm.checks.json_records import read_records
from kat_mm.checks.progress import Progress
from kat_mm.checks.run_lengths import bounds, decode_counts
from kat_mm.errors import UserError, some

_LISTS = ('images', 'annotations', 'categories')
_NO_MASK = (math.nan,) * 6
# Beyond the sums of whatever may be in a file, and far below what float64 holds.
_HUGE = 1e300
# Square pixels that rounding leaves of three points on a line.
_FLAT = 1e-6


class Content(NamedTuple):
    """What is kept of a file."""

    images: dict  # by id: name, width, height
    categories: dict  # by id: name
    annotations: 'Columns'


class Columns:
    """Annotations, in columns; their masks are looked at and not kept."""

    def __init__(self, with_masks: bool):
        self.with_masks = with_masks
        self.ids, self.image_ids, self.category_ids = [], [], []
        # Rows of 13: x, y, width, height, area, crowd, ignore; of masks: left, top, right, bottom,
        # and of run lengths their height and width.
        self.numbers = array('d')
        self.bad_masks = {}  # by row
        self.mask_remarks = {}  # by row: what of polygons is of no use

    def add(self, record: dict) -> None:
        row = len(self.ids)
        self.ids.append(record['id'])
        self.image_ids.append(record['image_id'])
        self.category_ids.append(record['category_id'])
        mask = _NO_MASK
        if self.with_masks:
            given = record.get('segmentation')
            try:
                mask = _mask_numbers(given)
                if type(given) is list and (remarks := _remarks(given)):
                    self.mask_remarks[row] = remarks
            except (TypeError, ValueError, OverflowError) as error:
                # Python's own texts of other errors would not help.
                problem = str(error) if isinstance(error, ValueError) else ''
                self.bad_masks[row] = (as_json(given) if given else '', problem)
        flags = (record['area'], record['iscrowd'], bool(record.get('ignore')))
        self.numbers.extend((*record['bbox'], *flags, *mask))


def _mask_numbers(given) -> tuple[float, ...]:
    """Bounds of polygons, or of run lengths with their size.

    Raises:
        ValueError, TypeError, OverflowError: It is neither.
    """
    if isinstance(given, dict):
        height, width = given['size'] if len(given.get('size') or ()) == 2 else (None, None)
        counts = given.get('counts')
        if not (_is_whole(height) and _is_whole(width)) or not isinstance(counts, str | list):
            raise ValueError
        if isinstance(counts, str):
            counts = decode_counts(counts).tolist()
        elif not set(map(type, counts)) <= {int}:
            raise ValueError
        total, least = sum(counts), min(counts, default=0)
        if least < 0 or total != height * width:
            raise ValueError(
                f'its run lengths add up to {total} pixels and not {height} x {width} = '
                f'{height * width}' + (', and one is negative' if least < 0 else '')
            )
        if not sum(counts[1::2]):
            raise ValueError('its run lengths have no pixel of the object')
        return (*bounds(counts, int(height)), height, width)
    if not isinstance(given, list) or not given:
        raise ValueError
    left = top = math.inf
    right = bottom = -math.inf
    for part in given:
        # Of what is no number, sum raises a TypeError.
        if not isinstance(part, list) or not -_HUGE < sum(part) < _HUGE:
            raise ValueError
        # Of parts with fewer points mmdet makes nothing.
        if len(part) >= 6 and len(part) % 2 == 0:
            xs, ys = part[::2], part[1::2]
            left, right = min(left, min(xs)), max(right, max(xs))
            top, bottom = min(top, min(ys)), max(bottom, max(ys))
    if left == math.inf:
        raise ValueError
    return left, top, right, bottom, math.nan, math.nan


# Of polygons: none has an area; mmdet leaves some out; COCO's evaluation fails on the first.
FLAT, PARTS, FIRST = 'flat', 'parts', 'first'


def _remarks(polygons: list[list[float]]) -> list[str]:
    used = [part for part in polygons if len(part) >= 6 and len(part) % 2 == 0]
    remarks = [FLAT]
    for part in used:
        if _has_area(part):
            remarks = []
            break
    if len(used) < len(polygons):
        remarks.append(PARTS)
        if len(polygons[0]) <= 4:  # which it takes for a box
            remarks.append(FIRST)
    return remarks


def _has_area(part: list[float]) -> bool:
    """Whether points do not all lie on one line; what crosses itself has an area."""
    # Three of the points tell it of most, of which COCO has a million.
    one = len(part) // 6 * 2
    x, y = part[:2]
    twice = (part[one] - x) * (part[2 * one + 1] - y) - (part[2 * one] - x) * (part[one + 1] - y)
    if abs(twice) > _FLAT:
        return True
    vectors = [(a - x, b - y) for a, b in zip(part[::2], part[1::2], strict=True)]
    far_x, far_y = max(vectors, key=_length)
    return any(abs(far_x * b - far_y * a) > _FLAT for a, b in vectors)


def _length(vector: tuple[float, float]) -> float:
    return abs(vector[0]) + abs(vector[1])


def read_coco(path: str | Path, with_masks: bool) -> Content:
    """Read an annotation file record by record.

    Args:
        path: The file.
        with_masks: Whether masks are looked at.

    Raises:
        UserError: It is missing, no JSON, or not COCO's.
    """
    if not os.path.isfile(path):
        raise UserError(
            f'annotation file {path} does not exist; see docs/detection.md for the layouts of '
            'COCO and of data of your own'
        )
    content = Content({}, {}, Columns(with_masks))
    seen = {key: set() for key in _LISTS}
    keys = {}
    try:
        for key, value in read_records(path, _LISTS, Progress(f'reading {path}')):
            if key not in _LISTS or not isinstance(value, dict):
                keys[key] = value
                if key in _LISTS and value != []:
                    break  # no list of objects
                continue
            keys[key] = []
            if key != 'annotations' or not _is_annotation(value):
                check_record(path, key, value, _FIELDS[key])
            if value['id'] in seen[key]:
                raise UserError(
                    f'annotation file {path} has two {key} of id {value["id"]}; give each object a '
                    'number of its own, and leave out what is there twice'
                )
            seen[key].add(value['id'])
            if key == 'images':
                size = value['width'], value['height']
                content.images[value['id']] = (value['file_name'], *size)
            elif key == 'categories':
                content.categories[value['id']] = value['name']
            else:
                content.annotations.add(value)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'annotation file {path} is no readable JSON: {error}') from error
    if not all(keys.get(key) == [] for key in _LISTS):
        raise UserError(
            f"annotation file {path} is not COCO's: it must hold lists of objects named images, "
            f'annotations and categories, and it holds {_describe(keys)}'
        )
    return content


def _describe(keys: dict) -> str:
    """What a file is instead, from its keys; one with the key '' is no object."""
    first = keys.get('', next(iter(keys.values()), None))
    inner = set(first) if isinstance(first, dict) else set()
    if '' in keys and {'data', 'annotations'} <= inner:
        return "a list of Label Studio's tasks: export the project as COCO"
    if {'shapes', 'imagePath'} <= keys.keys():
        return (
            f"the keys {some(keys)}, as labelme's file of one image does: labelme2coco.py of "
            "labelme's examples makes COCO's of a folder"
        )
    if '_via_img_metadata' in keys or {'filename', 'regions'} <= inner:
        return "a project of VIA: export its annotations in COCO's format"
    return 'a list or a single value' if '' in keys else f'the keys {some(keys)}'


def _is_annotation(record: dict) -> bool:
    """Whether check_record accepts an annotation, for the most part of them and in C."""
    try:
        box, crowd = record['bbox'], record['iscrowd']
        numbers = (record['id'], record['image_id'], record['category_id'], record['area'], *box)
    except (KeyError, TypeError):
        return False
    return len(box) == 4 and type(box) is list and crowd in (0, 1) and _are_numbers(numbers)


def check_record(path: str | Path, key: str, record: dict, fields: dict[str, tuple]) -> None:
    """Refuse a record of a list ``key`` with a field that is not what ``fields`` say."""
    for field, (is_right, right) in fields.items():
        if not is_right(record.get(field)):
            shown = as_json({name: record[name] for name in fields if name in record})
            given = record.get(field)
            has = f'has the {field} {as_json(given)}' if field in record else None
            if right == NUMBER[1] and isinstance(given, str):
                right += ', without quotation marks'
            raise UserError(
                f"annotation file {path} is not COCO's: one of its {key}, {shown}, "
                f'{has or f"lacks {field}"}; {field} must be {right}'
            )


def _are_numbers(values: Sequence) -> bool:
    """In C, since COCO has 860,000 objects; JSON's NaN and infinity are none."""
    try:
        return {int, float}.issuperset(map(type, values)) and -_HUGE < sum(values) < _HUGE
    except OverflowError:  # a whole number beyond float64 among floats
        return False


def _is_number(value) -> bool:
    return _are_numbers([value])


def _is_whole(value) -> bool:
    return _is_number(value) and value >= 1 and value % 1 == 0


def _is_box(value) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_flag(value) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def as_json(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f'{text[:80]}...'


_SURROGATE = re.compile('[\ud800-\udfff]')  # half a character, which no file's name holds
NUMBER = _is_number, 'a number'
STRING = (
    lambda value: isinstance(value, str) and not _SURROGATE.search(value),
    'a string of Unicode',
)
PIXELS = _is_whole, 'a whole number of pixels from 1'
BOX = _is_box, '[x, y, width, height] in pixels'
FLAG = _is_flag, '0 or 1'
# What mmdet and COCO's evaluation read.
_FIELDS = {
    'images': dict(id=NUMBER, file_name=STRING, width=PIXELS, height=PIXELS),
    'annotations': dict(
        id=NUMBER,
        image_id=NUMBER,
        category_id=NUMBER,
        bbox=BOX,
        area=NUMBER,
        iscrowd=FLAG,
    ),
    'categories': dict(id=NUMBER, name=STRING),
}
