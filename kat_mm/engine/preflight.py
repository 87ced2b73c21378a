"""Checks before a run starts: what would otherwise fail late, or deep inside a library."""

import difflib
import errno
import inspect
import os
import shutil
import tempfile
from pathlib import Path

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import find_latest_checkpoint
from torch import nn

from kat_mm.checkpoints import find_state_dict, read_checkpoint
from kat_mm.errors import UserError

_WHERE_TO_GET = {
    'ADE20KDataset': 'Get ADE20K (ADEChallengeData2016.zip) from sceneparsing.csail.mit.edu',
}
_SAMPLE_DATA = 'To try things out, make sample data: python tools/make_sample_data.py'


def check_config(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check what a config refers to.

    Args:
        cfg: The config, with all options of the command line merged.
        splits: Whose data is needed, from 'train', 'val' and 'test'.

    Raises:
        UserError: A key of the backbone is misspelt, a data folder is missing or incomplete, or
            there is no checkpoint where one is named.
    """
    check_arguments(cfg.get('model', {}).get('backbone', {}), 'model.backbone')
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            check_dataset(loader.dataset, split)
    init_cfg = cfg.get('model', {}).get('backbone', {}).get('init_cfg') or {}
    for path in (cfg.get('load_from'), init_cfg.get('checkpoint')):
        if path and '://' not in path and not os.path.isfile(path):
            raise UserError(
                f'checkpoint {path} does not exist; give the path of a .pth or .safetensors file'
            )


def check_arguments(cfg: dict, where: str) -> None:
    """Refuse keys that the class behind ``cfg['type']`` does not take, in the parts of a KAT."""
    cls = MODELS.get(cfg['type']) if isinstance(cfg.get('type'), str) else None
    if cls is None or not cls.__module__.startswith('kat_mm.'):
        return
    known = [name for name in inspect.signature(cls.__init__).parameters if name != 'self']
    for key, value in cfg.items():
        if key != 'type' and not key.startswith('_') and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean {near[0]}? ' if near else ''
            raise UserError(
                f'{where}.{key} is not an argument of {cls.__name__}; {hint}'
                f'It takes {", ".join(known)}'
            )
        if key.endswith('_cfg') and isinstance(value, dict):
            check_arguments(value, f'{where}.{key}')


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
    defaults = inspect.signature(DATASETS.get(dataset['type']).__init__).parameters
    img_suffix, seg_map_suffix = (
        dataset.get(key, defaults[key].default if key in defaults else suffix)
        for key, suffix in (('img_suffix', '.jpg'), ('seg_map_suffix', '.png'))
    )
    names = [
        name.removesuffix(img_suffix) for name in os.listdir(images) if name.endswith(img_suffix)
    ]
    if not names:
        raise UserError(f'data folder {images} holds no images *{img_suffix}. {_SAMPLE_DATA}')
    present = set(os.listdir(annotations))
    lacking = sorted(name for name in names if name + seg_map_suffix not in present)
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} images in {images} lack their annotation in '
            f'{annotations}, the first {lacking[0]}{seg_map_suffix}; add the annotations, or '
            'remove the images'
        )


def check_work_dir(work_dir: str) -> None:
    """Make the work folder and write to it once, before hours of training depend on it."""
    try:
        os.makedirs(work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        why = 'the disk is full' if error.errno == errno.ENOSPC else error.strerror
        raise UserError(
            f'cannot write to the work folder {work_dir}: {why}; name another one with --work-dir'
        ) from error


def check_disk_space(work_dir: str, model: nn.Module) -> None:
    """Refuse to start where not even one checkpoint would fit."""
    # Weights, and AdamW's two moments of each.
    needed = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(work_dir).free
    if free < needed:
        raise UserError(
            f'the work folder {work_dir} has {free / 1e6:.0f} MB free, and one checkpoint takes '
            f'about {needed / 1e6:.0f} MB; make room, or name another folder with --work-dir'
        )


def check_resume(work_dir: str) -> None:
    """Refuse to resume where there is nothing to resume from."""
    latest = find_latest_checkpoint(work_dir)
    if latest is None or not os.path.isfile(latest):
        raise UserError(
            f'--resume found no checkpoint in {work_dir}; name one, as --resume FILE, or start '
            'anew without --resume'
        )


def check_checkpoint(path: str, model: nn.Module, strict: bool) -> None:
    """Refuse a checkpoint that does not belong to a model.

    Args:
        path: The checkpoint file.
        model: The model that is to have its weights.
        strict: Whether every weight of the model must be there, as for testing. Otherwise those of
            the backbone must have its shapes, and heads may differ, as for fine-tuning.
    """
    if is_model_wrapper(model):
        model = model.module
    state = find_state_dict(read_checkpoint(path))
    own = model.state_dict()
    common = own.keys() & state.keys()
    missing = sorted(own.keys() - state.keys()) if strict or not common else []
    reasons = [
        f'{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here'
        for key in sorted(common)
        if state[key].shape != own[key].shape
        # A position embedding is resized.
        and not key.endswith('pos_embed')
        and (strict or key.startswith('backbone.'))
    ][:3]
    if missing:
        reasons.append(f'it lacks {len(missing)} tensors, such as {missing[0]}')
    if reasons:
        raise UserError(
            f'checkpoint {path} does not fit the model of the config: {"; ".join(reasons)}. '
            'Use the config that it was trained with'
        )
