"""Checks before a run starts: what would otherwise fail late, or deep inside a library."""

import copy
import difflib
import errno
import importlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import find_latest_checkpoint
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.checkpoints import (
    find_state_dict,
    keep_entries,
    load_pretrained,
    read_checkpoint,
)
from kat_mm.datasets.coco import check_coco
from kat_mm.errors import UserError

_WHERE_TO_GET = {
    'ADE20KDataset': 'Get ADE20K (ADEChallengeData2016.zip) from sceneparsing.csail.mit.edu',
    'CocoDataset': 'Get COCO 2017 (train2017, val2017, annotations) from cocodataset.org, or see '
    'docs/detection.md for data of your own',
}
_SAMPLE_DATA = (
    'To try things out without it: python tools/make_sample_data.py {0}, then '
    'python tools/train.py configs/{1}'
)


def check_config(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check what a config says, and the data that it names.

    Args:
        cfg: The config, with all options of the command line merged.
        splits: Whose data is needed, from 'train', 'val' and 'test'.

    Raises:
        UserError: A key of a module of this project is misspelt, or a data folder is missing or
            incomplete.
    """
    if cfg.get('default_scope') == 'mmdet':
        check_compiled_operators()
    # Names in the config are those of its scope.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_arguments(cfg.get('model'), 'model')
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            check_dataset(loader.dataset, split)
            check_annotations(cfg, loader.dataset, split)


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


def check_arguments(cfg, where: str) -> None:
    """Refuse keys that a class of this project does not take, anywhere below ``cfg``."""
    if isinstance(cfg, list | tuple):
        for index, item in enumerate(cfg):
            check_arguments(item, f'{where}[{index}]')
    if not isinstance(cfg, dict):
        return
    cls = MODELS.get(cfg['type']) if isinstance(cfg.get('type'), str) else None
    known = None
    if cls is not None and cls.__module__.startswith('kat_mm.'):
        known = [name for name in inspect.signature(cls.__init__).parameters if name != 'self']
    for key, value in cfg.items():
        if known and key != 'type' and not key.startswith('_') and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean {near[0]}? ' if near else ''
            raise UserError(
                f'{where}.{key} is not an argument of {cls.__name__}; {hint}'
                f'It takes {", ".join(known)}'
            )
        check_arguments(value, f'{where}.{key}')


@contextmanager
def config_errors() -> Iterator[None]:
    """What fails while things are built from a config is a mistake in the config."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError, FileNotFoundError) as error:
        raise UserError(f'the config cannot be built: {type(error).__name__}: {error}') from error


def build_model(cfg: Config) -> nn.Module:
    """Build the model for the checks, before the runner makes folders and logs.

    Raises:
        UserError: The config of the model does not fit.
    """
    with config_errors():
        return MODELS.build(copy.deepcopy(cfg.model))


def check_pretrained(model: nn.Module) -> None:
    """Load the pretrained weights that the backbone's ``init_cfg`` names, as a run will.

    Raises:
        UserError: The checkpoint cannot be read, or does not fit.
    """
    for module in model.modules():
        if isinstance(module, KAT):
            cfgs = [module.init_cfg] if isinstance(module.init_cfg, dict) else module.init_cfg
            for cfg in cfgs or []:
                if cfg['type'] == 'Pretrained':
                    load_pretrained(module, cfg['checkpoint'], cfg.get('prefix', 'backbone.'))


def check_dataset(dataset: dict, split: str) -> None:
    """Refuse a data set whose folders are missing, or whose images lack annotations."""
    for part in _without_wrappers(dataset):
        folders = _folders(part)
        for name, folder in folders.items():
            if not folder.is_dir():
                get = _WHERE_TO_GET.get(part['type'], 'See docs/data.md for the layouts')
                raise UserError(
                    f'data folder {folder} does not exist: {part["type"]} expects {name} of the '
                    f'{split} split there. {get}. {_sample_data(part)}'
                )
        if {'img_path', 'seg_map_path'} <= folders.keys() and not part.get('ann_file'):
            _check_pairs(part, folders['img_path'], folders['seg_map_path'])


def _without_wrappers(dataset: dict) -> list[dict]:
    """The data sets inside of wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    return (
        [dataset] if inner is None else [one for part in inner for one in _without_wrappers(part)]
    )


def _folders(dataset: dict) -> dict[str, Path]:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or {}
    return {name: root / folder for name, folder in prefixes.items() if folder}


def _sample_data(dataset: dict) -> str:
    is_coco = dataset['type'] == 'CocoDataset'
    names = (
        ('coco', 'kat_t_mask_rcnn_sample.py') if is_coco else ('ade20k', 'kat_t_upernet_sample.py')
    )
    return _SAMPLE_DATA.format(*names)


def _dataset_class(dataset: dict) -> type | None:
    """None where there is none; building it will say so."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # of the config's scope
        return registry.get(dataset['type'])


def check_annotations(cfg: Config, dataset: dict, split: str) -> None:
    """Check the annotation files of COCO's layout, and the classes of data and heads.

    Raises:
        UserError: See :func:`kat_mm.datasets.coco.check_coco`; or a head has another number of
            classes, or a metric reads another annotation file.
    """
    for part in _without_wrappers(dataset):
        cls = _dataset_class(part)
        if not part.get('ann_file') or not hasattr(cls, 'COCOAPI'):
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
        check_coco(path, classes, set(_list_files(folder, None)), str(folder), _with_masks(part))


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


def _check_pairs(dataset: dict, images: Path, annotations: Path) -> None:
    cls = _dataset_class(dataset)
    if cls is None:
        return
    defaults = inspect.signature(cls.__init__).parameters
    img_suffix, seg_map_suffix = (
        dataset.get(key, defaults[key].default if key in defaults else suffix)
        for key, suffix in (('img_suffix', '.jpg'), ('seg_map_suffix', '.png'))
    )
    # With sub-folders, as mmseg lists them.
    names = [name.removesuffix(img_suffix) for name in _list_files(images, img_suffix)]
    if not names:
        raise UserError(
            f'data folder {images} holds no images *{img_suffix}. {_sample_data(dataset)}'
        )
    present = set(_list_files(annotations, seg_map_suffix))
    lacking = sorted(name for name in names if name + seg_map_suffix not in present)
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} images in {images} lack their annotation in '
            f'{annotations}, the first {lacking[0]}{seg_map_suffix}; add the annotations, or '
            'remove the images'
        )


def _list_files(folder: Path, suffix: str | None) -> Iterator[str]:
    return list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)


def check_work_dir(work_dir: str, model: nn.Module) -> None:
    """Write once to where the work folder is or will be, before hours of training depend on it."""
    folder = Path(work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        why = 'the disk is full' if error.errno == errno.ENOSPC else error.strerror
        raise UserError(
            f'cannot write to the work folder {work_dir}: {why}; name another one with --work-dir'
        ) from error
    # A checkpoint holds the weights, and AdamW's two moments of each.
    needed = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f'the work folder {work_dir} has {free / 1e6:.0f} MB free, and one checkpoint takes '
            f'about {needed / 1e6:.0f} MB; make room, or name another folder with --work-dir'
        )


def latest_checkpoint(work_dir: str) -> str:
    """The checkpoint to resume from."""
    latest = find_latest_checkpoint(work_dir)
    if latest is None or not os.path.isfile(latest):
        raise UserError(
            f'--resume found no checkpoint in {work_dir}; name one, as --resume FILE, or start '
            'anew without --resume'
        )
    return latest


def check_checkpoint(path: str, model: nn.Module, strict: bool) -> None:
    """Refuse a checkpoint that does not belong to a model, by loading it.

    Args:
        path: The checkpoint file.
        model: The model of the config; gets the weights.
        strict: Whether every weight of the model must be there, as for testing and resuming.
            Otherwise those of the backbone must have its shapes, and heads may differ, as for
            fine-tuning.
    """
    state = find_state_dict(read_checkpoint(path))
    own = model.state_dict()
    if not strict:
        state = keep_entries(state, lambda key: key.startswith('backbone.') and key in own)
    reasons = []
    try:
        missing, _ = model.load_state_dict(state, strict=False)
        if strict or not state:
            reasons = [f'it lacks {len(missing)} tensors, such as {missing[0]}'] if missing else []
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:4]]
    if reasons:
        raise UserError(
            f'checkpoint {path} does not fit the model of the config: {"; ".join(reasons)}. '
            'Use the config that it was trained with'
        )
