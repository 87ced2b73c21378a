"""Panoptic annotation files and their pictures, as COCO has them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from kat_mm.checks.coco import check_number_of_objects
from kat_mm.checks.coco_file import BOX, FLAG, NUMBER, PIXELS, STRING, check_record
from kat_mm.checks.json_records import read_records
from kat_mm.checks.progress import Progress
from kat_mm.errors import UserError, some

# Pictures whose pixels are looked at before a run; the others are as they load.
_LOOKED_AT = 8
# Pixels by which the boxes of tools differ from those of their segments.
_EDGE = 2


def check_panoptic(cfg: Config, dataset: dict, cls: type, split: str) -> None:
    """Refuse panoptic annotations that a run would fail on.

    Images without a segment are counted in the log. Pixels are compared with the file for some
    pictures; ``tools/check_data.py`` reads all.

    Args:
        cfg: The config.
        dataset: Config of a data set that reads COCO's panoptic layout.
        cls: Its class.
        split: Name of its split.

    Raises:
        UserError: The file is missing or not COCO's, images or pictures are missing, classes do not
            fit, a picture disagrees with the file, or an image has more segments than there are
            queries.
    """
    root = Path(dataset.get('data_root') or '')
    path, prefix = root / dataset['ann_file'], dataset.get('data_prefix') or {}
    content = _read(path)
    categories = {one['id']: one for one in content['categories']}
    meta = {**cls.METAINFO, **(dataset.get('metainfo') or {})}
    _check_classes(path, categories, meta)
    _check_heads(cfg, meta)
    images = {one['id']: one for one in content['images']}
    for what, names in (
        ('img', [one['file_name'] for one in images.values()]),
        ('seg', [one['file_name'] for one in content['annotations']]),
    ):
        if what in prefix:
            _check_files(path, what, root / prefix[what], names)
    for one in content['annotations']:
        _check_annotation(path, one, images, categories)
    without = len(images) - sum(bool(one['segments_info']) for one in content['annotations'])
    if without:
        print_log(f'{without} of {len(images)} images of {path} have no segment', 'current')
    _check_left(path, content, images, categories, dataset)
    if split == 'train':
        _check_queries(cfg, path, content, images)
    if 'seg' in prefix:
        _check_pixels(path, root / prefix['seg'], content['annotations'], images)


def reads_panoptic(cls: type) -> bool:
    """Whether a data set is mmdet's CocoPanopticDataset, or reads its files as that does."""
    if not hasattr(cls, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoPanopticDataset

    return issubclass(cls, CocoPanopticDataset) and (
        cls.parse_data_info is CocoPanopticDataset.parse_data_info
    )


def num_queries(cfg: Config) -> int | None:
    """Queries of a head that predicts a mask by each, as EoMT's."""
    model = cfg.get('model') or {}
    head = model.get('panoptic_head') or model.get('decode_head') or {}
    return head.get('num_queries') if isinstance(head, dict) else None


def _read(path: Path) -> dict[str, list]:
    if not path.is_file():
        raise UserError(
            f'annotation file {path} does not exist; see docs/heads.md for panoptic data'
        )
    content, seen = {}, {key: set() for key in _FIELDS}
    try:
        for key, value in read_records(path, tuple(_FIELDS), Progress(f'reading {path}')):
            if key not in _FIELDS or value == []:
                content.setdefault(key, [])
                continue
            if not isinstance(value, dict):
                raise ValueError(f'its {key} are no list of objects')
            check_record(path, key, value, _FIELDS[key])
            for segment in value['segments_info'] if key == 'annotations' else ():
                _check_segment(path, value, segment)
            number = value['image_id' if key == 'annotations' else 'id']
            if number in seen[key]:
                what = f'images with two annotations, as {number}'
                raise UserError(
                    f'{path} has {what if key == "annotations" else f"two {key} of id {number}"}; '
                    'give each a number of its own, and leave out what is there twice'
                )
            seen[key].add(number)
            content.setdefault(key, []).append(value)
        lacking = [key for key in _FIELDS if key not in content]
        if lacking:
            raise ValueError(f'it has no {some(lacking)}')
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f'{path} is no panoptic annotation file of COCO: {error}; it must have images, '
            'annotations with segments_info, and categories with isthing'
        ) from error
    names = Counter(one['name'] for one in content['categories'])
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise UserError(f'{path} has two categories of the same name {twice[0]!r}; rename one')
    return content


def _check_segment(path: Path, annotation: dict, segment: dict) -> None:
    if not isinstance(segment, dict):
        raise UserError(f'{path}: a segment of {annotation["file_name"]} is no object: {segment}')
    given = {'iscrowd': 0, **segment}
    check_record(path, f'segments of {annotation["file_name"]}', given, _SEGMENT)


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _is_segment_box(value) -> bool:
    return BOX[0](value) and min(value[2:]) >= 1


_FIELDS = {
    'images': dict(id=NUMBER, file_name=STRING, width=PIXELS, height=PIXELS),
    'annotations': dict(
        image_id=NUMBER,
        file_name=STRING,
        segments_info=(lambda value: isinstance(value, list), 'a list of segments'),
    ),
    'categories': dict(id=NUMBER, name=STRING, isthing=FLAG),
}
_SEGMENT = dict(
    id=(lambda value: _is_count(value) and value > 0, 'a whole number from 1'),
    category_id=NUMBER,
    bbox=(_is_segment_box, '[x, y, width, height] in pixels, of a width and height from 1'),
    area=(lambda value: NUMBER[0](value) and value > 0, 'a number above 0'),
    iscrowd=FLAG,
)


def _check_classes(path: Path, categories: dict[int, dict], meta: dict) -> None:
    classes, given = list(meta['classes']), [one['name'] for one in categories.values()]
    unknown = [name for name in given if name not in classes]
    lacking = [name for name in classes if name not in given]
    if unknown or lacking:
        what = f'the categories {some(unknown)} of {path} are not among the classes of the config'
        if not unknown:
            what = f'the classes {some(lacking)} of the config are not among those of {path}'
        raise UserError(
            f'{what}; set metainfo of the data set (classes, thing_classes, stuff_classes), and '
            'num_things_classes and num_stuff_classes of the heads'
        )
    if given != classes:
        # mmdet numbers them in the order of the file, and names them in that of the config.
        index = next(i for i, name in enumerate(given) if name != classes[i])
        raise UserError(
            f'category {index} of {path} is {given[index]}, and class {index} of the config '
            f'{classes[index]}; they must have one order, things first'
        )
    things = meta.get('thing_classes')
    for one in categories.values() if things else ():
        if bool(one['isthing']) != (one['name'] in things):
            raise UserError(
                f'category {one["name"]!r} of {path} has isthing={one["isthing"]}, but is '
                f'{"not " if one["isthing"] else ""}among metainfo.thing_classes of the config; '
                'objects that are counted are things in both'
            )


def _check_heads(cfg: Config, meta: dict) -> None:
    model = cfg.get('model') or {}
    for part in ('panoptic_head', 'semantic_head', 'panoptic_fusion_head'):
        for key, classes in (
            ('num_things_classes', 'thing_classes'),
            ('num_stuff_classes', 'stuff_classes'),
        ):
            number = (model.get(part) or {}).get(key)
            if number is not None and number != len(meta[classes]):
                raise UserError(
                    f'model.{part}.{key}={number}, but the data have {len(meta[classes])} {classes}'
                )


def _check_left(path: Path, content: dict, images: dict, categories: dict, dataset: dict) -> None:
    """Refuse a file of which mmdet leaves nothing to learn or to evaluate."""
    filter_cfg = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
    least, needs_things = filter_cfg.get('min_size', 0), filter_cfg.get('filter_empty_gt', False)
    for one in content['annotations']:
        image = images[one['image_id']]
        segments = one['segments_info']
        if needs_things:
            segments = [
                segment
                for segment in segments
                if categories[segment['category_id']]['isthing'] and not segment.get('iscrowd')
            ]
        if segments and min(image['width'], image['height']) >= least:
            return
    raise UserError(
        f'of the {len(images)} images of {path} none is left: they have no segments'
        + (' of things that are no crowds' if needs_things else '')
        + (f', or are below filter_cfg.min_size={least}' if least else '')
        + '; there is nothing to learn or to evaluate'
    )


def _check_files(path: Path, what: str, folder: Path, names: Sequence[str]) -> None:
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    lacking = [name for name in names if name not in there and not (folder / name).is_file()]
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} files of {path} are missing in {folder} '
            f"(data_prefix['{what}']), the first {lacking[0]}"
        )


def _check_annotation(path: Path, one: dict, images: dict, categories: dict) -> None:
    if one['image_id'] not in images:
        raise UserError(
            f'{path}: annotation {one["file_name"]} is of image {one["image_id"]}, which the file '
            'does not list'
        )
    image = images[one['image_id']]['file_name']
    # As mmdet finds it, whatever the annotation says.
    name = image.replace('.jpg', '.png')
    if os.path.normpath(name) != os.path.normpath(one['file_name']):
        raise UserError(
            f'{path}: the picture of image {image} is {one["file_name"]}, but mmdet reads {name}; '
            'name pictures as their images, which end in .jpg'
        )
    ids = [segment['id'] for segment in one['segments_info']]
    if len(set(ids)) < len(ids):
        raise UserError(f'{path}: annotation {one["file_name"]} has two segments of one id')
    for segment in one['segments_info']:
        if segment['category_id'] not in categories:
            raise UserError(
                f'{path}: segment {segment["id"]} of {one["file_name"]} is of category '
                f'{segment["category_id"]}, which the file does not list'
            )


def _check_queries(cfg: Config, path: Path, content: dict, images: dict) -> None:
    queries = num_queries(cfg)
    most = max(content['annotations'], key=lambda one: len(one['segments_info']), default=None)
    if queries is not None and most is not None:
        name = images[most['image_id']]['file_name']
        check_number_of_objects(path, name, len(most['segments_info']), queries)


def _check_pixels(path: Path, folder: Path, annotations: list[dict], images: dict) -> None:
    from kat_mm.datasets.panoptic import check_segments, read_segment_ids

    step = max(1, len(annotations) // _LOOKED_AT)
    for one in annotations[::step]:
        image = images[one['image_id']]
        picture = str(folder / one['file_name'])
        ids = read_segment_ids(picture)
        check_segments(
            picture,
            ids,
            {segment['id'] for segment in one['segments_info']},
            (image['height'], image['width']),
            str(path),
        )
        for segment in one['segments_info']:
            _check_box(picture, segment, np.nonzero(ids == segment['id']))


def _check_box(picture: str, segment: dict, pixels: tuple[np.ndarray, np.ndarray]) -> None:
    rows, columns = pixels
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    x, y, width, height = segment['bbox']
    if np.abs(np.subtract(found, (x, y, x + width, y + height))).max() > _EDGE:
        left, top, right, bottom = map(int, found)
        raise UserError(
            f'segment {segment["id"]} of {picture} has the bbox {segment["bbox"]}, but its pixels '
            f'are in {[left, top, right - left, bottom - top]} (x, y, width, height); mend the '
            'boxes of segments_info'
        )
