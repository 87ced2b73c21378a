"""Panoptic annotation files and their pictures, as COCO has them."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from kat_mm.checks.coco import check_number_of_objects
from kat_mm.errors import UserError, some

# Pictures whose pixels are looked at before a run; the others are as they load.
_LOOKED_AT = 8


def check_panoptic(cfg: Config, dataset: dict, split: str) -> None:
    """Refuse panoptic annotations that a run would fail on.

    Images without a segment are counted in the log. Pixels are compared with the file for some
    pictures; ``tools/check_data.py`` reads all.

    Args:
        cfg: The config.
        dataset: Config of a data set that reads COCO's panoptic layout.
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
    _check_classes(path, content['categories'], dataset)
    _check_heads(cfg, dataset)
    images = {one['id']: one for one in content['images']}
    for what, names in (
        ('img', [one['file_name'] for one in images.values()]),
        ('seg', [one['file_name'] for one in content['annotations']]),
    ):
        if what in prefix:
            _check_files(path, what, root / prefix[what], names)
    for one in content['annotations']:
        _check_annotation(path, one, images, categories)
    twice = [
        key for key, n in Counter(a['image_id'] for a in content['annotations']).items() if n > 1
    ]
    if twice:
        raise UserError(f'{path} has {len(twice)} images with two annotations, as {twice[0]}')
    without = len(images) - sum(bool(one['segments_info']) for one in content['annotations'])
    if without:
        print_log(f'{without} of {len(images)} images of {path} have no segment', 'current')
    if split == 'train':
        _check_some_are_left(path, content, images, dataset.get('filter_cfg') or {})
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


def _read(path: Path) -> dict:
    if not path.is_file():
        raise UserError(
            f'annotation file {path} does not exist; see docs/heads.md for panoptic data'
        )
    try:
        content = json.loads(path.read_text())
        for key, fields in (
            ('images', ('id', 'file_name', 'height', 'width')),
            ('annotations', ('image_id', 'file_name', 'segments_info')),
            ('categories', ('id', 'name', 'isthing')),
        ):
            for record in content[key]:
                [record[field] for field in fields]
        for one in content['annotations']:
            for segment in one['segments_info']:
                [segment[field] for field in ('id', 'category_id')]
                x, y, width, height = segment['bbox']
                [float(number) for number in (x, y, width, height, segment['area'])]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is no panoptic annotation file of COCO ({type(error).__name__}: {error}); it '
            'must have images, annotations with segments_info, and categories with isthing'
        ) from error
    return content


def _classes(dataset: dict) -> dict:
    from mmdet.datasets import CocoPanopticDataset

    return {**CocoPanopticDataset.METAINFO, **(dataset.get('metainfo') or {})}


def _check_classes(path: Path, categories: list[dict], dataset: dict) -> None:
    meta = _classes(dataset)
    classes, given = list(meta['classes']), [one['name'] for one in categories]
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
    twice = [name for name, number in Counter(given).items() if number > 1]
    if twice:
        raise UserError(f'{path} has two categories of the name {twice[0]}; give each its own')
    if given != classes:
        # mmdet numbers them in the order of the file, and names them in that of the config.
        index = next(i for i, name in enumerate(given) if name != classes[i])
        raise UserError(
            f'category {index} of {path} is {given[index]}, and class {index} of the config '
            f'{classes[index]}; they must have one order, things first'
        )
    for one in categories:
        if bool(one['isthing']) != (one['name'] in meta['thing_classes']):
            kinds = ('stuff_classes', 'thing_classes')
            raise UserError(
                f'category {one["name"]} of {path} has isthing={one["isthing"]}, but is among '
                f'{kinds[one["name"] in meta["thing_classes"]]} of the config'
            )


def _check_heads(cfg: Config, dataset: dict) -> None:
    meta, model = _classes(dataset), cfg.get('model') or {}
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
    name = images[one['image_id']]['file_name'].replace('.jpg', '.png')
    if one['file_name'] != name:
        raise UserError(
            f'{path}: the picture of image {images[one["image_id"]]["file_name"]} is '
            f'{one["file_name"]}; mmdet looks for {name}, so it must have that name'
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


def _check_some_are_left(path: Path, content: dict, images: dict, filter_cfg: dict) -> None:
    things = {one['id'] for one in content['categories'] if one['isthing']}
    with_things = {
        one['image_id']
        for one in content['annotations']
        if any(segment['category_id'] in things for segment in one['segments_info'])
    }
    least = filter_cfg.get('min_size', 0)
    if not any(
        min(one['width'], one['height']) >= least
        and (key in with_things or not filter_cfg.get('filter_empty_gt', False))
        for key, one in images.items()
    ):
        raise UserError(
            f'no image of {path} is left to train on: filter_cfg={dict(filter_cfg)} leaves out all '
            f'{len(images)}'
        )
    if not any(one['segments_info'] for one in content['annotations']):
        raise UserError(f'{path} has no segment to learn from')


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
        check_segments(
            picture,
            read_segment_ids(picture),
            {segment['id'] for segment in one['segments_info']},
            (image['height'], image['width']),
            str(path),
        )
