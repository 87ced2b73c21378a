"""Annotation files of COCO's layout, where a config names them."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from kat_mm.checks.coco import check_coco
from kat_mm.checks.files import list_files
from kat_mm.checks.panoptic import num_queries
from kat_mm.errors import UserError


def check_annotations(cfg: Config, dataset: dict, classes: Sequence[str], split: str) -> None:
    """Check a data set's annotation file, its images, and what metrics read.

    Args:
        cfg: The config.
        dataset: Config of a data set that reads COCO's layout.
        classes: Names of its classes.
        split: Name of its split.

    Raises:
        UserError: See :func:`kat_mm.checks.coco.check_coco`; or a metric reads another annotation
            file.
    """
    path = Path(dataset.get('data_root') or '') / dataset['ann_file']
    evaluator = cfg.get(f'{split}_evaluator') or {}
    metrics = [evaluator] if isinstance(evaluator, dict) else list(evaluator)
    for metric in metrics:
        other = metric.get('ann_file')
        if other and os.path.abspath(other) != os.path.abspath(path):
            raise UserError(
                f'{split}_evaluator.ann_file is {other}, but the predictions are those for the '
                f'images of {path}; set both to the same file'
            )
    if metrics and all(metric.get('format_only') for metric in metrics):
        return  # for a test server, without annotations
    prefix = dataset.get('data_prefix') or {}
    if 'img' not in prefix:
        raise UserError(
            f'data_prefix of the {split} data set must name the folder of the images, for '
            "example dict(img='train2017')"
        )
    folder = Path(dataset.get('data_root') or '') / prefix['img']
    found = list_files(folder)[0] if folder.is_dir() else ()
    # mmdet leaves out small images in training alone.
    filter_cfg = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
    check_coco(
        path,
        classes,
        set(found),
        str(folder),
        _with_masks(dataset),
        filter_cfg.get('min_size', 0),
        bool(dataset.get('test_mode')),
        num_queries(cfg) if split == 'train' else None,
    )


def reads_coco(cls: type) -> bool:
    """Whether a data set is CocoDataset, or reads its files as that does."""
    if not hasattr(cls, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    methods = ('load_data_list', 'parse_data_info')
    return all(getattr(cls, name) is getattr(CocoDataset, name) for name in methods)


def _with_masks(dataset: dict) -> bool:
    return any(transform.get('with_mask') for transform in dataset.get('pipeline') or [])
