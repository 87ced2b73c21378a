"""The data sets that a config names: their folders, their files, and their classes."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from kat_mm.checks.classes import check_numbers_of_classes, class_names
from kat_mm.checks.classification import (
    ClassFolders,
    check_class_folders,
    check_classification,
    is_classification,
)
from kat_mm.checks.detection import check_annotations, reads_coco
from kat_mm.checks.panoptic import check_panoptic, reads_panoptic
from kat_mm.checks.segmentation import check_crops, check_labels, check_pairs, lists_pairs
from kat_mm.checks.settings import check_topk
from kat_mm.datasets.wrappers import inner_datasets, type_name
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


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Check the data sets of some splits, and that all that numbers classes agrees with them.

    Args:
        cfg: The config.
        splits: From 'train', 'val' and 'test'.

    Raises:
        UserError: What a data set needs is missing or damaged, or numbers of classes differ.
    """
    classes, folders, labels = {}, {}, {}
    for split in splits:
        for part, dataset in enumerate(_datasets(cfg, split)):
            cls = _dataset_class(dataset)
            check_folders(dataset, cls, split)
            names = class_names(dataset, cls, split)
            if names is not None and not _numbers_otherwise(cls):
                classes[split] = names
            if is_classification(cls):
                folder = next(iter(data_folders(dataset, cls).values()))
                found = check_classification(dataset, folder, names, _head_classes(cfg))
                if found:
                    folders[f'{split}, part {part + 1}' if part else split] = found
            elif lists_pairs(cls):
                check_pairs(dataset, cls)
                if split == 'train':
                    check_crops(dataset, _padded_size(cfg))
                labels.setdefault(split, []).append(dataset)
            elif reads_coco(cls) and dataset.get('ann_file'):
                check_annotations(cfg, dataset, names, split)
            elif reads_panoptic(cls) and dataset.get('ann_file'):
                check_panoptic(cfg, dataset, cls, split)
        check_topk(cfg, split, _head_classes(cfg))
    check_class_folders(folders)
    check_numbers_of_classes(cfg, classes, _numbers_of_folders(folders))
    # Last, since it reads files.
    for split, datasets in labels.items():
        check_labels(datasets, split, len(classes.get(split, ())))


def _datasets(cfg: Config, split: str) -> Iterator[dict]:
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return
    if not isinstance(loader.get('dataset'), dict):
        raise UserError(f'{split}_dataloader has no dataset=dict(type=..., ...)')
    for dataset in inner_datasets(loader['dataset']):
        if 'type' not in dataset:
            raise UserError(f'a data set of {split}_dataloader has no type: {dict(dataset)}')
        yield dataset


def _dataset_class(dataset: dict) -> type:
    if not isinstance(dataset['type'], str):
        return dataset['type']
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        return registry.get(dataset['type'])


def _numbers_otherwise(cls: type) -> bool:
    """Whether a detector's heads may have other numbers than its data: panoptic sets, tracks."""
    return cls.__module__.startswith('mmdet.') and not reads_coco(cls)


def _head_classes(cfg: Config) -> int | None:
    """Classes of a classifier's head."""
    head = (cfg.get('model') or {}).get('head') or {}
    return head.get('num_classes') if isinstance(head, dict) else None


def _padded_size(cfg: Config) -> tuple[int, int] | None:
    """What a segmentor pads its training batches to."""
    return ((cfg.get('model') or {}).get('data_preprocessor') or {}).get('size')


def _numbers_of_folders(folders: dict[str, ClassFolders]) -> list[tuple[str, int]]:
    return [
        (f'number of class folders in {found.folder}', len(found.names))
        for found in folders.values()
    ]


def check_folders(dataset: dict, cls: type, split: str) -> None:
    """Refuse a data set whose folders are missing.

    Args:
        dataset: Config of the data set.
        cls: Its class.
        split: 'train', 'val' or 'test', for messages.
    """
    for name, folder in data_folders(dataset, cls).items():
        if not folder.is_dir():
            get = _WHERE_TO_GET.get(type_name(dataset), 'See docs/data.md for the layouts')
            raise UserError(
                f'data folder {folder} does not exist: {type_name(dataset)} expects {name} of the '
                f'{split} split there. {get}. {_SAMPLE_DATA}'
            )


def data_folders(dataset: dict, cls: type) -> dict[str, Path]:
    """The folders that a data set needs, by the names of its arguments."""
    prefixes = dataset.get('data_prefix') or {}
    # ImageNet of mmpretrain names its folder after the split; others choose from their files by it.
    if not prefixes and type_name(dataset) == 'ImageNet':
        prefixes = dataset.get('split') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    root = Path(dataset.get('data_root') or '')
    folders = {name: root / folder for name, folder in prefixes.items() if folder}
    if folders or 'download' in inspect.signature(cls.__init__).parameters:
        return folders
    return dict(data_root=root)
