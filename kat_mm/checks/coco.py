"""Annotation files in COCO's layout, for mmdet's data sets."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from kat_mm.checks.coco_file import FIRST, FLAT, PARTS, Content, as_json, read_coco
from kat_mm.checks.files import IMAGE_SUFFIXES
from kat_mm.errors import UserError, some

# Before a file's name: folders, those of Windows, and the query of an address.
_FOLDERS = re.compile(r'.*(/|\\|\?d=)')
_HASH = re.compile(r'[0-9a-f]{8}[-_]{1,2}')  # what Label Studio puts before a name
# Pixels by which tools that draw boxes differ at an image's edge.
_EDGE = 1.0


def check_coco(
    path: str | Path,
    classes: Sequence[str],
    images: set[str],
    folder: str,
    with_masks: bool,
    min_size: float = 0,
    evaluates: bool = False,
    num_queries: int | None = None,
) -> None:
    """Refuse an annotation file that mmdet would fail on, or misread, in training or evaluation.

    What mmdet leaves out or changes (objects of other classes, without area, outside of their
    image, crowds) is counted in the log. The file is read record by record, in the memory of its
    text.

    Args:
        path: The annotation file.
        classes: Names of the classes of the config, in the order of the labels.
        images: Names of the files that are in the folder.
        folder: Where images are.
        with_masks: Whether objects need a segmentation.
        min_size: Pixels of an image's shorter side, below which it is left out.
        evaluates: Whether the file is what predictions are compared with.
        num_queries: Objects that the head can find in an image, where there is a limit.

    Raises:
        UserError: The file is missing or not COCO's, images are missing, classes do not fit,
            objects are where they cannot be, no object is left, or an image has too many.
    """
    content = read_coco(path, with_masks)
    _check_classes(path, content, classes)
    _check_images(path, content.images, images, folder)
    objects = _Objects(path, content, classes)
    objects.check(min_size, evaluates)
    if num_queries is not None:
        objects.check_number(num_queries)


def check_number_of_objects(path: str | Path, image: str, number: int, num_queries: int) -> None:
    """Refuse an image with more objects than a head has queries."""
    if number > num_queries:
        raise UserError(
            f'image {image} of {path} has {number} objects, more than num_queries={num_queries} '
            'of the head can find; set num_queries to the most that an image has, or leave out '
            'the image'
        )


def _check_classes(path: str | Path, content: Content, classes: Sequence[str]) -> None:
    names = list(content.categories.values())
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UserError(
            f'the classes {some(unknown)} of the config are not among the categories of {path}: '
            f'{some(names)}. Set metainfo.classes of the data set, and num_classes of the heads'
        )
    twice = [name for name, number in Counter(names).items() if number > 1 and name in classes]
    if twice:
        counts = Counter(content.annotations.category_ids)
        parts = ', '.join(
            f'{key} with {counts[key]} objects'
            for key, name in content.categories.items()
            if name == twice[0]
        )
        raise UserError(
            f'{path} has two categories of the same name {twice[0]!r}: of id {parts}. Remove those '
            'without objects (as a root category that a tool puts before the classes; '
            'tools/prepare_coco_export.py does), or rename one'
        )
    # mmdet numbers labels in the file's order, and names them in the config's.
    expected = [name for name in names if name in classes]
    if expected != list(classes):
        raise UserError(
            f'the classes of the config must be in the order of the categories of {path}: '
            f'{some(expected)}; they are {some(classes)}'
        )


def _check_images(path: str | Path, records: dict, images: set[str], folder: str) -> None:
    names = [name for name, _, _ in records.values()]
    # Joined as mmdet does: names may lead to other folders.
    lacking = [
        name
        for name in names
        if name not in images and not os.path.isfile(os.path.join(folder, name))
    ]
    if lacking:
        base = _FOLDERS.sub('', lacking[0])
        found = next((name for name in images if _FOLDERS.sub('', name) == base), None)
        hint = 'add the files, or remove them from the annotations'
        hash_ = _HASH.match(base)
        if not found and hash_ and base[hash_.end() :] in images:
            hint = (
                f"{base[hash_.end() :]} is there: take the folder and Label Studio's {hash_[0]} "
                'out of file_name'
            )
        if found:
            hint = f'{found} is there: mend file_name in the annotations, or data_prefix'
            if '\\' in lacking[0]:
                hint = f"{found} is there: write / for Windows' \\ in file_name"
        raise UserError(
            f'{len(lacking)} of {len(names)} images of {path} are missing in {folder}, the first '
            f'{lacking[0]}; {hint}'
        )
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        print_log(f'{path} lists {len(twice)} images more than once: {some(twice)}', 'current')
    paths = (name for name in names if name not in images)
    used = {os.path.relpath(os.path.join(folder, path), folder) for path in paths}
    unused = images.difference(names, used)
    others = [name for name in unused if name.lower().endswith(IMAGE_SUFFIXES)]
    if others:
        print_log(
            f'{len(others)} of {len(images)} files in {folder} are images that {path} does not '
            f'list, and not used: {some(sorted(others))}',
            'current',
        )


class _Objects:
    """Annotations beside their images and classes, in arrays."""

    def __init__(self, path: str | Path, content: Content, classes: Sequence[str]):
        columns = content.annotations
        self.path, self.classes, self.content = path, classes, content
        self.with_masks, self.bad_masks = columns.with_masks, columns.bad_masks
        self.mask_remarks = columns.mask_remarks
        self.ids, self.image_ids = columns.ids, columns.image_ids
        number = len(self.ids)
        for kind, given, known in (
            ('image', columns.image_ids, content.images),
            ('category', columns.category_ids, content.categories),
        ):
            row = next((row for row, key in enumerate(given) if key not in known), None)
            if row is not None:
                raise UserError(
                    f'annotation {self.ids[row]} of {path} is of {kind} {given[row]}, which the '
                    'file does not list'
                    + (f'; it lists {some(known)}' if kind == 'category' else '')
                )
        sizes = (content.images[key][1:] for key in self.image_ids)
        self.sizes = np.array(list(sizes), float).reshape(number, 2)
        wanted = {key for key, name in content.categories.items() if name in classes}
        self.relevant = np.array([key in wanted for key in columns.category_ids], bool)
        self.others = {content.categories[key] for key in columns.category_ids if key not in wanted}
        numbers = np.frombuffer(columns.numbers).reshape(number, 13)
        self.boxes, self.area = numbers[:, :4], numbers[:, 4]
        self.crowd, self.ignored = numbers[:, 5] > 0, numbers[:, 6] > 0
        self.mask_bounds, self.mask_sizes = numbers[:, 7:11], numbers[:, 11:13]
        self.has_area = has_area_in_image(self.boxes, self.area, self.sizes)

    def check(self, min_size: float, evaluates: bool) -> None:
        self._check_boxes()
        if self.with_masks:
            self._check_masks()
            self._count_masks(evaluates)
        self._count(min_size, evaluates)

    def check_number(self, num_queries: int) -> None:
        learned = self.relevant & self.has_area & ~self.crowd & ~self.ignored
        counts = Counter(self.image_ids[row] for row in np.flatnonzero(learned))
        for image, number in counts.most_common(1):
            check_number_of_objects(self.path, self.content.images[image][0], number, num_queries)

    def _fail(self, wrong: np.ndarray, problem: str) -> None:
        """Refuse the first of the wrong rows."""
        rows = np.flatnonzero(wrong & self.relevant)
        if len(rows):
            row = rows[0]
            width, height = self.sizes[row]
            more = f' ({len(rows)} annotations are so)' if len(rows) > 1 else ''
            raise UserError(
                f'annotation {self.ids[row]} of {self.path} has the bbox '
                f'{as_json(self.boxes[row].tolist())} in image {self._file(row)} of {width:g}x'
                f'{height:g} pixels{more}: {problem}'
            )

    def _file(self, row: int) -> str:
        return self.content.images[self.image_ids[row]][0]

    def _check_boxes(self) -> None:
        boxes, sizes = self.boxes[self.relevant], self.sizes[self.relevant]
        if not len(boxes):
            return
        everything = np.ones(len(self.ids), bool)
        if ((boxes >= 0) & (boxes <= 1)).all():
            self._fail(
                everything,
                'all boxes are fractions of 1; they must be [x, y, width, height] in pixels',
            )
        first, last = boxes[:, :2], boxes[:, 2:]
        outside = (first + last > sizes + _EDGE).any(1)
        corners = ((last > first) & (first >= -_EDGE) & (last <= sizes + _EDGE)).all(1)
        if outside.mean() > 0.25 and corners.mean() > 0.99:
            self._fail(
                everything,
                'the boxes look like [x1, y1, x2, y2]; they must be [x, y, width, height], with '
                'width = x2 - x1 and height = y2 - y1',
            )
        first, last = self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]
        self._fail(
            ((first < -self.sizes) | (last > 2 * self.sizes)).any(1),
            'it reaches further outside than the image is large; boxes are [x, y, width, height] '
            'in pixels of this image',
        )

    def _check_masks(self) -> None:
        for row, (given, problem) in self.bad_masks.items():
            if self.relevant[row]:
                self._refuse_mask(row, given, problem)
        width, height = self.sizes.T
        other = ~np.isnan(self.mask_sizes[:, 0]) & (
            self.mask_sizes != np.stack([height, width], 1)
        ).any(1)
        self._fail(other, 'its mask, as run lengths, is of another size (of height and width)')
        bounds = self.mask_bounds
        first, last = bounds[:, :2], bounds[:, 2:]
        far = ((first < -self.sizes) | (last > 2 * self.sizes)).any(1)
        self._fail(far, 'its polygon reaches further outside than the image is large')
        box_first, box_last = self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]
        apart = ((first > box_last + _EDGE) | (last < box_first - _EDGE)).any(1)
        apart &= self.has_area
        is_polygon = np.isnan(self.mask_sizes[:, 0])
        self._fail(
            apart & is_polygon,
            'its polygon lies outside of the box; boxes are [x, y, width, height], polygons '
            '[x1, y1, x2, y2, ...]',
        )
        self._fail(
            apart,
            'its mask, as run lengths, lies outside of the box; boxes are [x, y, width, height], '
            'and run lengths go down the columns',
        )

    def _count_masks(self, evaluates: bool) -> None:
        """Say what is of no use in polygons, and refuse what fails later."""
        used = self.relevant & self.has_area & ~self.ignored
        rows = {
            remark: [row for row, found in self.mask_remarks.items() if remark in found]
            for remark in (FLAT, PARTS, FIRST)
        }
        flat = [row for row in rows[FLAT] if used[row] and not self.crowd[row]]
        if flat and len(flat) == int((used & ~self.crowd).sum()):
            raise UserError(
                f'the polygons of all {len(flat)} objects of {self.path} have no area, since their '
                f'points lie on one line (the first is annotation {self.ids[flat[0]]}); a mask '
                'needs three points or more around an area'
            )
        if flat:
            print_log(
                f'{self.path}: {len(flat)} objects have polygons without area, their points on one '
                f'line, of which an empty mask is learned: {self._names(flat)}. Draw them anew, or '
                'remove them',
                'current',
            )
        parts = [row for row in rows[PARTS] if used[row]]
        if parts:
            print_log(
                f'{self.path}: {len(parts)} objects have polygons of fewer than three points, or '
                'of an odd number of coordinates, beside others, which are left out: '
                f'{self._names(parts)}',
                'current',
            )
        # The evaluation reads all that are of a class.
        first = [row for row in rows[FIRST] if self.relevant[row]] if evaluates else []
        if first:
            raise UserError(
                f'{self._names(first)} of {self.path} begin with a polygon of fewer than three '
                "points, on which COCO's evaluation fails; remove that polygon"
            )

    def _names(self, rows: Sequence[int]) -> str:
        return f'annotations {some([str(self.ids[row]) for row in rows])}'

    def _refuse_mask(self, row: int, given: str, problem: str) -> None:
        name = f'annotation {self.ids[row]} of {self.path}'
        if not given:
            raise UserError(
                f'{name} has no segmentation, which Mask R-CNN needs; train a model of boxes '
                'alone, as configs/kat_t_faster_rcnn_bccd.py'
            )
        width, height = self.sizes[row]
        raise UserError(
            f'{name}, in image {self._file(row)}, has the segmentation {given}'
            + (f', and {problem}' if problem else '')
            + '; it must be polygons [[x1, y1, x2, y2, x3, y3, ...], ...] of three points or more, '
            f'or run lengths {{"counts": ..., "size": [{height:g}, {width:g}]}} of its image'
        )

    def _twice(self, kept: np.ndarray) -> list:
        """The numbers of objects that others equal which stand before them."""
        categories = self.content.annotations.category_ids
        seen, twice = set(), []
        for row in np.flatnonzero(kept).tolist():
            # Of COCO's 860,001 the hashes take a tenth of the objects' memory.
            key = hash((self.image_ids[row], categories[row], self.boxes[row].tobytes()))
            if key in seen:
                twice.append(self.ids[row])
            seen.add(key)
        return twice

    def _count(self, min_size: float, evaluates: bool) -> None:
        """Say what mmdet leaves out, and refuse a file of which nothing is left."""
        tell = []
        if self.others:
            tell.append(f'objects of {some(sorted(self.others))} are no class and left out')
        empty = int((self.relevant & ~self.has_area).sum())
        if empty:
            tell.append(f'{empty} boxes without area in their image are left out')
        kept = self.relevant & self.has_area & ~self.ignored
        ignored = int((self.relevant & self.has_area & self.ignored).sum())
        if ignored:
            tell.append(f'{ignored} objects with ignore=1 are left out')
        crowds = int((kept & self.crowd).sum())
        if crowds:
            tell.append(
                f'{crowds} of {int(kept.sum())} objects are crowds (iscrowd=1), from which nothing '
                'is learned'
            )
        small = int((kept & ~self.crowd & (self.sizes.min(1) < min_size)).sum())
        left = int((kept & ~self.crowd).sum()) - small
        beyond = (self.boxes[:, :2] < -_EDGE) | (
            self.boxes[:, :2] + self.boxes[:, 2:] > self.sizes + _EDGE
        )
        if cut := int((kept & beyond.any(1)).sum()):
            tell.append(f'{cut} boxes reach outside of their image, and are cut at its edge')
        if twice := self._twice(kept & ~self.crowd):
            tell.append(
                f'{len(twice)} objects are there twice, of the same image, category and box, and '
                f'count twice: annotations {some(twice)}'
            )
        if evaluates and any(key == 0 and kept[row] for row, key in enumerate(self.ids)):
            tell.append(
                "annotation 0 is counted as never found by COCO's evaluation; number annotations "
                'from 1'
            )
        for line in tell:
            print_log(f'{self.path}: {line}', 'current')
        if not left:
            reasons = [
                f'{number} {what}'
                for number, what in (
                    (small, f'in images below filter_cfg.min_size={min_size}'),
                    (crowds, 'crowds (iscrowd=1; set it to 0 for single objects)'),
                    (ignored, 'with ignore=1'),
                )
                if number
            ]
            raise UserError(
                f'annotation file {self.path} has no object of the classes {some(self.classes)} in '
                f'its {len(self.content.images)} images'
                + (f' but {", and ".join(reasons)}' if reasons else '')
                + '; there is nothing to learn or to evaluate'
            )


def has_area_in_image(boxes: np.ndarray, area: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """mmdet's rule for (N, 4) boxes [x, y, width, height] in images of (N, 2) width and height."""
    first, last = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (np.minimum(last, sizes) > np.maximum(first, 0)).all(1)
    return inside & (area > 0) & (boxes[:, 2:] >= 1).all(1)
