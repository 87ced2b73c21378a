"""What a detector needs before a run starts, besides what every task needs."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS

from kat_mm.checks.coco import check_coco
from kat_mm.errors import UserError


def check_compiled_operators() -> None:
    """Refuse an mmcv that was installed without its operators, which detectors need."""
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        raise UserError(
            f'mmcv has no compiled operators, which detectors need ({error}). Build it again, with '
            'torch already installed: pip install --force-reinstall --no-deps '
            '--no-build-isolation --no-cache-dir onedl-mmcv==2.3.6, and try: '
            'python -c "import mmcv.ops" (README.md, "Into an environment that you have")'
        ) from error


def check_annotations(cfg: Config, dataset: dict, split: str) -> None:
    """Check the annotation files of COCO's layout, and the classes of data and heads.

    Raises:
        UserError: See :func:`kat_mm.checks.coco.check_coco`; or a head has another number of
            classes, or a metric reads another annotation file.
    """
    for part in _without_wrappers(dataset):
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the config's scope
            cls = registry.get(part['type'])
        if not part.get('ann_file') or not _reads_coco(cls):
            continue
        classes = cls._load_metainfo(part.get('metainfo')).get('classes')
        if isinstance(classes, str) or not classes:
            raise UserError(
                f'metainfo.classes of the {split} data set is {classes!r}; it must be a tuple of '
                "names, for example ('cell',) with its comma"
            )
        for where, number in _numbers_of_classes(cfg.get('model') or {}, 'model'):
            if number != len(classes):
                raise UserError(
                    f'{where}={number}, but the {split} data set has {len(classes)} classes: '
                    f'{", ".join(classes[:8])}{", ..." if len(classes) > 8 else ""}'
                )
        path = Path(part.get('data_root') or '') / part['ann_file']
        evaluator = cfg.get(f'{split}_evaluator') or {}
        for metric in [evaluator] if isinstance(evaluator, dict) else evaluator:
            other = metric.get('ann_file')
            if other and os.path.abspath(other) != os.path.abspath(path):
                raise UserError(
                    f'{split}_evaluator.ann_file is {other}, but the predictions are those for the '
                    f'images of {path}; set both to the same file'
                )
            if metric.get('format_only'):  # for a test server, without annotations
                return
        prefix = part.get('data_prefix') or {}
        if 'img' not in prefix:
            raise UserError(
                f'data_prefix of the {split} data set must name the folder of the images, for '
                "example dict(img='train2017')"
            )
        folder = Path(part.get('data_root') or '') / prefix['img']
        found = list_dir_or_file(folder, list_dir=False, recursive=True) if folder.is_dir() else ()
        # mmdet leaves out small images in training alone.
        filter_cfg = {} if part.get('test_mode') else part.get('filter_cfg') or {}
        min_size = filter_cfg.get('min_size', 0)
        check_coco(path, classes, set(found), str(folder), _with_masks(part), min_size)


def _reads_coco(cls: type | None) -> bool:
    """Whether a data set is CocoDataset, or reads its files as that does."""
    if not hasattr(cls, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    methods = ('load_data_list', 'parse_data_info')
    return all(getattr(cls, name) is getattr(CocoDataset, name) for name in methods)


def _numbers_of_classes(cfg, where: str) -> Iterator[tuple[str, int]]:
    """Every ``num_classes`` of a detector's config, but the RPN's, which is 1."""
    items = cfg.items() if isinstance(cfg, dict) else enumerate(cfg) if _is_list(cfg) else ()
    for key, value in items:
        if key == 'num_classes':
            yield f'{where}.{key}', value
        elif key != 'rpn_head':
            yield from _numbers_of_classes(value, f'{where}.{key}')


def _is_list(value) -> bool:
    return isinstance(value, list | tuple)


def _with_masks(dataset: dict) -> bool:
    return any(transform.get('with_mask') for transform in dataset.get('pipeline') or [])


def _without_wrappers(dataset: dict) -> list[dict]:
    """The data sets inside of wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    return (
        [dataset] if inner is None else [one for part in inner for one in _without_wrappers(part)]
    )
