"""Checks before a run starts: what would otherwise fail late, or deep inside a library."""

import copy
import difflib
import errno
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
from kat_mm.engine.check_detection import check_annotations, check_compiled_operators
from kat_mm.errors import UserError

_WHERE_TO_GET = {
    'ADE20KDataset': 'Get ADE20K (ADEChallengeData2016.zip) from sceneparsing.csail.mit.edu',
    'CocoDataset': 'Get COCO 2017 (train2017, val2017, annotations) from cocodataset.org, or see '
    'docs/detection.md for data of your own',
}
_SAMPLE_DATA = (
    'To try things out without it: python tools/make_sample_data.py all, then '
    'python tools/train.py configs/kat_t_upernet_sample.py or configs/kat_t_mask_rcnn_sample.py'
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
    while 'dataset' in dataset:  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    prefixes = dataset.get('data_prefix') or {}
    root = Path(dataset.get('data_root') or '')
    folders = {name: root / folder for name, folder in prefixes.items() if folder}
    for name, folder in folders.items():
        if not folder.is_dir():
            get = _WHERE_TO_GET.get(dataset['type'], 'See docs/data.md for the layouts')
            raise UserError(
                f'data folder {folder} does not exist: {dataset["type"]} expects {name} of the '
                f'{split} split there. {get}. {_SAMPLE_DATA}'
            )
    if {'img_path', 'seg_map_path'} <= folders.keys() and not dataset.get('ann_file'):
        _check_pairs(dataset, folders['img_path'], folders['seg_map_path'])


def _check_pairs(dataset: dict, images: Path, annotations: Path) -> None:
    with DATASETS.switch_scope_and_registry(None) as registry:  # of the config's scope
        cls = registry.get(dataset['type'])
    if cls is None:  # building it will say so
        return
    defaults = inspect.signature(cls.__init__).parameters
    img_suffix, seg_map_suffix = (
        dataset.get(key, defaults[key].default if key in defaults else suffix)
        for key, suffix in (('img_suffix', '.jpg'), ('seg_map_suffix', '.png'))
    )
    # With sub-folders, as mmseg lists them.
    names = [name.removesuffix(img_suffix) for name in _list_files(images, img_suffix)]
    if not names:
        raise UserError(f'data folder {images} holds no images *{img_suffix}. {_SAMPLE_DATA}')
    present = set(_list_files(annotations, seg_map_suffix))
    lacking = sorted(name for name in names if name + seg_map_suffix not in present)
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} images in {images} lack their annotation in '
            f'{annotations}, the first {lacking[0]}{seg_map_suffix}; add the annotations, or '
            'remove the images'
        )


def _list_files(folder: Path, suffix: str) -> Iterator[str]:
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
        state = keep_entries(state, lambda key: key.startswith('backbone.'))
    reasons = []
    try:
        missing, _ = model.load_state_dict(state, strict=False)
        if strict or not state.keys() & own.keys():
            reasons = [f'it lacks {len(missing)} tensors, such as {missing[0]}'] if missing else []
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:4]]
    if reasons:
        raise UserError(
            f'checkpoint {path} does not fit the model of the config: {"; ".join(reasons)}. '
            'Use the config that it was trained with'
        )
