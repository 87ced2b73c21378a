"""Checks before a run starts: what would otherwise fail late, or deep inside a library."""

import copy
import difflib
import errno
import importlib
import importlib.metadata
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
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.checkpoints import convert_for_model, load_pretrained, read_checkpoint
from kat_mm.checkpoints.state_dict import keep_entries
from kat_mm.engine.check_detection import check_annotations, check_compiled_operators
from kat_mm.engine.class_folders import (
    EXTENSIONS,
    ClassFolders,
    check_annotation_file,
    check_class_folders,
    find_class_folders,
)
from kat_mm.engine.finite import check_finite
from kat_mm.errors import UserError

_WHERE_TO_GET = {
    'ImageNet': 'Get ILSVRC 2012 from image-net.org, one folder for each class (n01440764, ...)',
    'ADE20KDataset': 'Get ADE20K (ADEChallengeData2016.zip) from sceneparsing.csail.mit.edu',
    'Flowers102': 'Get jpg/, imagelabels.mat and setid.mat from '
    'www.robots.ox.ac.uk/~vgg/data/flowers/102',
    'CocoDataset': 'Get COCO 2017 (train2017, val2017, annotations) from cocodataset.org, or see '
    'docs/detection.md for data of your own',
}
_SAMPLE_DATA = (
    'To try things out without it: python tools/make_sample_data.py all, then '
    'python tools/train.py configs/kat_t_upernet_sample.py, configs/kat_t_mask_rcnn_sample.py or '
    'configs/kat_t_in1k_sample.py'
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
    check_library(cfg)
    # Names in the config are those of its scope.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_arguments(cfg.get('model'), 'model')
    num_classes = _num_classes(cfg)
    class_folders = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            class_folders[split] = check_dataset(loader.dataset, split, num_classes)
            check_annotations(cfg, loader.dataset, split)
        _check_topk(cfg.get(f'{split}_evaluator'), f'{split}_evaluator', num_classes)
    check_class_folders(
        {split: found for split, found in class_folders.items() if found}, num_classes
    )
    _check_one_hot(cfg.get('model'), num_classes)


def check_library(cfg: Config) -> None:
    """Import the library of the config's task, and say what to do where that fails.

    Raises:
        UserError: It is not installed, or does not import.
    """
    library = cfg.get('default_scope')
    if library not in ('mmdet', 'mmpretrain', 'mmseg'):
        return
    try:
        importlib.import_module(f'{library}.models')
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        if missing:
            reason, remedy = 'is not installed', 'pip install -e ".[onedl]"'
        else:
            reason = f'does not import ({type(error).__name__}: {error})'
            remedy = 'compare the installed versions with requirements/pins.txt'
            # mmpretrain 1.3.6 was written for transformers 4.
            transformers = _version('transformers')
            if library == 'mmpretrain' and int(transformers.partition('.')[0]) >= 5:
                reason = f'does not import with transformers {transformers}'
                remedy = 'pip install "transformers<5", or: pip uninstall transformers'
        raise UserError(f'the config needs {library}, which {reason}; {remedy}') from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return '0'


def _num_classes(cfg: Config) -> int | None:
    """Classes of a classifier's head."""
    head = (cfg.get('model') or {}).get('head') or {}
    return head.get('num_classes') if isinstance(head, dict) else None


def _check_one_hot(model: dict | None, num_classes: int | None) -> None:
    number = ((model or {}).get('data_preprocessor') or {}).get('num_classes')
    if None not in (number, num_classes) and number != num_classes:
        raise UserError(
            f'model.data_preprocessor.num_classes={number}, with which mixup makes its labels, '
            f'must be model.head.num_classes={num_classes}'
        )


def _check_topk(evaluator, where: str, num_classes: int | None) -> None:
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator or {}]:
        topk = metric.get('topk', 1) if isinstance(metric, dict) else 1
        largest = max(topk) if isinstance(topk, list | tuple) else topk
        if num_classes is not None and largest > num_classes:
            raise UserError(
                f'{where}.topk={topk} asks for the best {largest} of {num_classes} classes; '
                f'set it to (1,), or to numbers up to {num_classes}'
            )


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


def check_dataset(dataset: dict, split: str, num_classes: int | None = None) -> ClassFolders | None:
    """Refuse a data set whose folders are missing, or whose images lack annotations.

    Args:
        dataset: Config of the data set.
        split: 'train', 'val' or 'test', for messages.
        num_classes: Classes of the head, where the task is classification.

    Returns:
        The class folders, where the data set has such.
    """
    while 'dataset' in dataset:  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    prefixes = dataset.get('data_prefix') or {}
    # ImageNet of mmpretrain names its folder after the split; others choose from their files by it.
    if not prefixes and dataset['type'].rpartition('.')[2] == 'ImageNet':
        prefixes = dataset.get('split') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    root = Path(dataset.get('data_root') or '')
    folders = {name: root / folder for name, folder in prefixes.items() if folder}
    if not folders and not _downloads_itself(dataset):
        folders = dict(data_root=root)
    for name, folder in folders.items():
        if not folder.is_dir():
            get = _WHERE_TO_GET.get(dataset['type'], 'See docs/data.md for the layouts')
            raise UserError(
                f'data folder {folder} does not exist: {dataset["type"]} expects {name} of the '
                f'{split} split there. {get}. {_SAMPLE_DATA}'
            )
    if {'img_path', 'seg_map_path'} <= folders.keys() and not dataset.get('ann_file'):
        _check_pairs(dataset, folders['img_path'], folders['seg_map_path'])
    if dataset['type'].rpartition('.')[2] in ('CustomDataset', 'ImageNet'):
        return _check_classification(dataset, folders.get('img_path', root), num_classes)
    return None


def _downloads_itself(dataset: dict) -> bool:
    cls = _dataset_class(dataset)
    return cls is None or 'download' in inspect.signature(cls.__init__).parameters


def _check_classification(
    dataset: dict, folder: Path, num_classes: int | None
) -> ClassFolders | None:
    if not dataset.get('with_label', True):
        return None
    root = Path(dataset.get('data_root') or '')
    ann_file = dataset.get('ann_file')
    default = root / 'meta' / f'{dataset.get("split")}.txt'
    if ann_file or ('split' in dataset and default.is_file()):
        check_annotation_file(root / ann_file if ann_file else default, num_classes)
        return None
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None and dataset['type'].endswith('ImageNet'):
        classes = _dataset_class(dataset).METAINFO['classes']
    extensions = dataset.get('extensions', EXTENSIONS)
    return ClassFolders(folder, find_class_folders(folder, extensions), classes)


def _dataset_class(dataset: dict) -> type | None:
    with DATASETS.switch_scope_and_registry(None) as registry:  # of the config's scope
        return registry.get(dataset['type'])


def _check_pairs(dataset: dict, images: Path, annotations: Path) -> None:
    cls = _dataset_class(dataset)
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


def check_checkpoint(path: str, model: nn.Module, strict: bool, resume: bool = False) -> None:
    """Refuse a checkpoint that does not belong to a model, by loading it.

    Args:
        path: The checkpoint file.
        model: The model of the config; gets the weights.
        strict: Whether every weight of the model must be there, as for testing and resuming.
            Otherwise those of the backbone must have its shapes, after the conversion from other
            layouts and sizes, and heads may differ, as for fine-tuning.
        resume: Whether the run goes on from it, with its optimizer. Default: False.

    Raises:
        UserError: The checkpoint cannot be read, or does not fit.
    """
    content = read_checkpoint(path)
    lacking = {'meta', 'message_hub', 'optimizer'} - content.keys()
    if resume and lacking:
        raise UserError(
            f'checkpoint {path} has no {", ".join(sorted(lacking))}: it holds weights, but not the '
            'state of a run to resume. To start a new run from its weights, leave out --resume and '
            f'give --cfg-options load_from={path}'
        )
    state = convert_for_model(content, model, path, strict)
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
    check_finite(model, path)
