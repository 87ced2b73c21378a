"""Checks of annotation files in COCO's layout, for mmdet's data sets."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmengine.logging import print_log

from kat_mm.errors import UserError


def check_coco(
    path: str | Path,
    classes: Sequence[str],
    images: set[str],
    folder: str,
    with_masks: bool,
    min_size: float = 0,
) -> None:
    """Refuse an annotation file that mmdet would fail on, or misread, in training or evaluation.

    Objects that mmdet leaves out (of other classes, without area, outside of their image) are
    counted in the log.

    Args:
        path: The annotation file.
        classes: Names of the classes of the config, in the order of the labels.
        images: Names of the files that are there.
        folder: Where they are, for messages.
        with_masks: Whether objects need a segmentation.
        min_size: Pixels of an image's shorter side, below which it is left out.

    Raises:
        UserError: The file is missing or not COCO's, images are missing, classes do not fit, or no
            object is left.
    """
    content = _read(path)
    _check_classes(path, content['categories'], classes)
    sizes = _check_images(path, content['images'], images, folder)
    known = {category['id']: category['name'] for category in content['categories']}
    other, empty, small, left = set(), 0, 0, 0
    for annotation in content['annotations']:
        _check_references(path, annotation, sizes, known)
        size = sizes[annotation['image_id']]
        if known[annotation['category_id']] not in classes:
            other.add(known[annotation['category_id']])
            continue
        if with_masks:
            _check_segmentation(path, annotation, *size)
        if not _has_area(annotation, *size):
            empty += 1
        elif min(size) < min_size:
            small += 1
        else:
            left += 1
    if other:
        print_log(f'{path}: objects of {_some(sorted(other))} are no class and left out', 'current')
    if empty:
        print_log(f'{path}: {empty} boxes without area in their image are left out', 'current')
    if not left:
        raise UserError(
            f'annotation file {path} has no object of the classes {_some(classes)} in its '
            f'{len(sizes)} images'
            + (f' but {small} in images below filter_cfg.min_size={min_size}' if small else '')
            + '; there is nothing to learn or to evaluate'
        )


def _read(path: str | Path) -> dict:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(
            f'annotation file {path} does not exist; see docs/detection.md for the layouts of '
            'COCO and of data of your own'
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f'annotation file {path} is no readable JSON: {error}') from error
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(_is_records(content.get(key)) for key in lists):
        what = f'the keys {_some(content)}' if isinstance(content, dict) else 'a list'
        raise UserError(
            f"annotation file {path} is not COCO's: it must hold lists of objects named images, "
            f'annotations and categories, and it holds {what}'
        )
    for key, fields in _FIELDS.items():
        seen = set()
        for record in content[key]:
            for field, (is_right, right) in fields.items():
                if not is_right(record.get(field)):
                    shown = _json({name: record[name] for name in fields if name in record})
                    has = f'has the {field} {_json(record[field])}' if field in record else None
                    raise UserError(
                        f"annotation file {path} is not COCO's: one of its {key}, {shown}, "
                        f'{has or f"lacks {field}"}; {field} must be {right}'
                    )
            if record['id'] in seen:
                raise UserError(f'annotation file {path} has two {key} of id {record["id"]}')
            seen.add(record['id'])
    return content


def _is_records(value) -> bool:
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def _check_classes(path: str | Path, categories: list[dict], classes: Sequence[str]) -> None:
    names = [category['name'] for category in categories]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UserError(
            f'the classes {_some(unknown)} of the config are not among the categories of {path}: '
            f'{_some(names)}. Set metainfo.classes of the data set, and num_classes of the heads'
        )
    # mmdet numbers labels in the file's order, and names them in the config's.
    expected = [name for name in names if name in classes]
    if expected != list(classes):
        raise UserError(
            f'the classes of the config must be in the order of the categories of {path}: '
            f'{_some(expected)}; they are {_some(classes)}'
        )


def _check_images(
    path: str | Path, records: list[dict], images: set[str], folder: str
) -> dict[int, tuple[float, float]]:
    """Size of each image, by its id."""
    lacking = [record['file_name'] for record in records if record['file_name'] not in images]
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(records)} images of {path} are missing in {folder}, the first '
            f'{lacking[0]}; add the files, or remove them from the annotations'
        )
    return {record['id']: (record['width'], record['height']) for record in records}


def _check_references(
    path: str | Path,
    annotation: dict,
    sizes: dict[int, tuple[float, float]],
    known: dict[int, str],
) -> None:
    name = f'annotation {annotation["id"]} of {path}'
    if annotation['image_id'] not in sizes:
        raise UserError(
            f'{name} is of image {annotation["image_id"]}, which the file does not list'
        )
    if annotation['category_id'] not in known:
        raise UserError(
            f'{name} is of category {annotation["category_id"]}, which the file does not list; it '
            f'lists {_some(known)}'
        )


def _check_segmentation(
    path: str | Path, annotation: dict, image_width: float, image_height: float
) -> None:
    given = annotation.get('segmentation')
    if not given:
        raise UserError(
            f'annotation {annotation["id"]} of {path} has no segmentation, which Mask R-CNN needs; '
            'train a model of boxes alone, as configs/kat_t_faster_rcnn_bccd.py'
        )
    size = [image_height, image_width]
    if not (_is_polygons(given) or _is_run_lengths(given, size)):
        raise UserError(
            f'annotation {annotation["id"]} of {path} has the segmentation {_json(given)}; it must '
            'be polygons [[x1, y1, x2, y2, x3, y3, ...], ...] of three points or more, or run '
            f'lengths {{"counts": ..., "size": {_json(size)}}} of its image'
        )


def _is_polygons(value) -> bool:
    # Of parts with fewer points mmdet makes nothing.
    return (
        isinstance(value, list)
        and all(isinstance(part, list) and _are_finite(part) for part in value)
        and any(len(part) >= 6 and len(part) % 2 == 0 for part in value)
    )


def _is_run_lengths(value, size: list[float]) -> bool:
    if not isinstance(value, dict) or value.get('size') != size:
        return False
    counts = value.get('counts')
    return isinstance(counts, str) or (isinstance(counts, list) and _are_finite(counts))


def _are_finite(values: list) -> bool:
    """In C, since COCO has 50 million coordinates."""
    return {int, float}.issuperset(map(type, values)) and math.isfinite(sum(values))


def _is_finite(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_box(value) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


def _has_area(annotation: dict, image_width: float, image_height: float) -> bool:
    """mmdet's rule."""
    x, y, width, height = annotation['bbox']
    inside = min(x + width, image_width) > max(x, 0) and min(y + height, image_height) > max(y, 0)
    return inside and annotation['area'] > 0 and width >= 1 and height >= 1


def _some(names: Iterable) -> str:
    names = [str(name) for name in names]
    return ', '.join(names[:8]) + (f', ... ({len(names)} in all)' if len(names) > 8 else '')


def _json(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f'{text[:80]}...'


_NUMBER = _is_finite, 'a number'
_STRING = lambda value: isinstance(value, str), 'a string'
# What mmdet and COCO's evaluation read.
_FIELDS = {
    'images': dict(id=_NUMBER, file_name=_STRING, width=_NUMBER, height=_NUMBER),
    'annotations': dict(
        id=_NUMBER,
        image_id=_NUMBER,
        category_id=_NUMBER,
        bbox=(_is_box, '[x, y, width, height] in pixels'),
        area=_NUMBER,
        iscrowd=_NUMBER,
    ),
    'categories': dict(id=_NUMBER, name=_STRING),
}
