"""Images and label images for semantic segmentation."""

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from kat_mm.checks.files import IMAGE_SUFFIXES, list_files
from kat_mm.checks.progress import Progress
from kat_mm.datasets.loading import check_loading, is_loading
from kat_mm.datasets.text_files import read_text
from kat_mm.datasets.wrappers import type_name
from kat_mm.errors import UserError, config_errors, some

# Steps of a pipeline that change the size of an image.
_RESIZING = re.compile('Resize|Pad|Crop|Mosaic|Affine')


def lists_pairs(cls: type) -> bool:
    """Whether a data set is mmseg's BaseSegDataset, or lists images as it does."""
    if not hasattr(cls, 'get_label_map'):
        return False
    from mmseg.datasets import BaseSegDataset

    return getattr(cls, 'load_data_list', None) is BaseSegDataset.load_data_list


def check_pairs(dataset: dict, cls: type) -> None:
    """Refuse images without label images, and say what is left out.

    Args:
        dataset: Config of a data set that mmseg lists as BaseSegDataset does.
        cls: Its class.

    Raises:
        UserError: There are no images, or one has no label image.
    """
    img_suffix, seg_map_suffix = (
        dataset.get(key, getattr(inspect.signature(cls.__init__).parameters.get(key), 'default', d))
        for key, d in (('img_suffix', '.jpg'), ('seg_map_suffix', '.png'))
    )
    root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
    if not prefix.get('img_path') or prefix.get('seg_map_path') is None:
        return  # images to predict
    images, annotations = root / prefix['img_path'], root / prefix['seg_map_path']
    files, broken = list_files(images)
    if broken:
        print_log(
            f'{len(broken)} links in {images} lead nowhere and are left out: {some(broken)}',
            'current',
        )
    used = {name.removesuffix(img_suffix) for name in files if name.endswith(img_suffix)}
    if dataset.get('ann_file'):
        used = _listed(root / dataset['ann_file'], used, images, img_suffix)
    else:
        _tell_of_other_images(files, images, img_suffix, bool(used))
    labels = {
        name.removesuffix(seg_map_suffix)
        for name in list_files(annotations)[0]
        if name.endswith(seg_map_suffix)
    }
    lacking = sorted(used - labels)
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(used)} images in {images} lack their annotation in '
            f'{annotations}, the first {lacking[0]}{seg_map_suffix}; add the annotations, or '
            'remove the images'
        )
    unused = sorted(labels - used)
    if unused:
        print_log(
            f'{len(unused)} of {len(labels)} annotations in {annotations} are of no image that is '
            f'used, and left out: {some(name + seg_map_suffix for name in unused)}',
            'current',
        )


def _listed(path: Path, present: set[str], images: Path, suffix: str) -> set[str]:
    if not path.is_file():
        raise UserError(f'ann_file {path} does not exist; each line is an image without {suffix}')
    names = [line.strip() for line in read_text(path).splitlines()]
    if not names:
        raise UserError(f'ann_file {path} is empty; each line is an image without {suffix}')
    lacking = [name for name in names if name not in present]
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} lines of {path} are no images in {images}, the first '
            f'{some(map(repr, lacking), 1)}: each line is the name of an image without {suffix}'
        )
    return set(names)


def _tell_of_other_images(files: list[str], images: Path, suffix: str, any_used: bool) -> None:
    others = sorted(
        name
        for name in files
        if not name.endswith(suffix) and name.lower().endswith(IMAGE_SUFFIXES)
    )
    if not any_used:
        raise UserError(
            f'data folder {images} holds no images *{suffix}, which are what img_suffix of the '
            f'data set asks for; other images there: {some(others)}'
        )
    if others:
        print_log(
            f'{len(others)} of {len(files)} images in {images} do not end in {suffix}, which '
            f'img_suffix asks for, and are left out: {some(others)}. Give them that ending',
            'current',
        )


def check_crops(dataset: dict, size: Sequence[int] | None) -> None:
    """Refuse crops that are larger than what a batch is padded to, and tell of smaller ones.

    A config that inherits crops and ``data_preprocessor.size``, and changes one of them, has both.

    Args:
        dataset: Config of a data set to train on.
        size: ``data_preprocessor.size`` of the model, (H, W). None: batches are not padded to one.

    Raises:
        UserError: A side of a crop is larger.
    """
    steps = [step for step in dataset.get('pipeline') or () if _RESIZING.search(type_name(step))]
    if size is None or not steps or type_name(steps[-1]) != 'RandomCrop':
        return
    crop = steps[-1].get('crop_size')
    crop = (crop, crop) if isinstance(crop, int) else tuple(crop or size)
    if any(side > most for side, most in zip(crop, size, strict=True)):
        raise UserError(
            f'RandomCrop of the training pipeline has crop_size={crop}, and images of a batch are '
            f'padded to model.data_preprocessor.size={tuple(size)}, which is smaller. Make them one'
        )
    padding = 1 - crop[0] * crop[1] / (size[0] * size[1])
    if padding > 0.05:  # not to whole patches alone
        print_log(
            f'RandomCrop of the training pipeline has crop_size={crop}, which '
            f'model.data_preprocessor.size={tuple(size)} pads: {padding:.0%} of what is computed '
            'is of no label',
            'current',
            logging.WARNING,
        )


def check_labels(datasets: Sequence[dict], split: str, num_classes: int) -> None:
    """Refuse label images from which there is nothing to learn, or nothing to evaluate.

    Reads label images until that is certain, which for sound data is the first or the second.

    Args:
        datasets: Configs of the split's data sets.
        split: Its name. Training needs two classes, evaluation one.
        num_classes: Number of classes; of one class, one is enough.

    Raises:
        UserError: All pixels are ignored, or of one class.
    """
    needed = 2 if split == 'train' and num_classes != 1 else 1
    found, number, first = set(), 0, None
    progress = Progress(f'label images of {split}')
    for path, labels, ignored in _label_images(datasets):
        first = first or path
        number += 1
        progress(number)
        found.update(np.unique(labels[labels != ignored]).tolist())
        if len(found) >= needed:
            return
    if not number:
        return
    where = f'the {number} label images of the {split} split, such as {first},'
    if not found:
        raise UserError(
            f'{where} have no pixel of a class: all are ignored. Number the classes from 0, or '
            'from 1 with reduce_zero_label=True'
        )
    raise UserError(
        f'{where} have class {found.pop()} alone, and pixels that are ignored: there is nothing to '
        'learn. In masks of 0 and 255 make the foreground 1, since 255 is ignored'
    )


def _label_images(datasets: Sequence[dict]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Path, labels as training sees them, and the label that is ignored."""
    for dataset in datasets:
        pipeline = [dict(step) for step in dataset.get('pipeline') or [] if is_loading(step)]
        if not any(type_name(step) == 'LoadAnnotations' for step in pipeline):
            continue
        loading = {**dataset, 'pipeline': pipeline}
        check_loading(loading)
        with config_errors():
            built = DATASETS.build(loading)
        for index in range(len(built)):
            results = built[index]
            yield results['seg_map_path'], results['gt_seg_map'], built.ignore_index
