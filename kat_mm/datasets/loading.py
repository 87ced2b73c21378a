"""Loading that says which file is wrong, and what is wrong with it."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.registry import TRANSFORMS

from kat_mm.errors import UserError

# What mmcv, OpenCV and Pillow raise for files that do not decode (AttributeError: from None).
_LOADING_ERRORS = (OSError, ValueError, AssertionError, AttributeError, cv2.error)


@TRANSFORMS.register_module()
class LoadChecked(BaseTransform):
    """Run loading transforms; when one fails, name the files of the sample.

    OpenCV and Pillow see bytes, so their own errors cannot say which file does not decode.

    Args:
        transforms: Configs of the loading transforms, in order.

    Raises:
        UserError: A file is missing, does not decode, or does not pass a check.
    """

    def __init__(self, transforms: list[dict]):
        self.transforms = Compose(transforms)

    def transform(self, results: dict) -> dict:
        files = [str(value) for key, value in results.items() if key.endswith('_path') and value]
        try:
            return self.transforms(results)
        except FileNotFoundError as error:
            raise UserError(
                f'{error.filename} does not exist, although the data set lists it (sample: '
                f'{", ".join(files)}); add the file, or remove the sample'
            ) from error
        except _LOADING_ERRORS as error:
            raise UserError(
                f'cannot load the sample {", ".join(files)}: {error}. Repair or replace the file, '
                'or remove the sample from the data set'
            ) from error


def check_loading(dataset: dict) -> None:
    """Put the loading transforms of a data set's config, and what wraps it, into LoadChecked.

    Done when a run starts and not in the config files: inference tools look there for
    ``LoadImageFromFile`` and ``LoadAnnotations`` by name.
    """
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        if inner is not None:
            check_loading(inner)
    pipeline = dataset.get('pipeline') or []
    for index, transform in enumerate(pipeline):
        name = transform['type'].rpartition('.')[2]
        if name == 'CheckLabels' or (name.startswith('Load') and name != LoadChecked.__name__):
            pipeline[index] = dict(type=LoadChecked.__name__, transforms=[transform])


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Refuse label values outside of the classes, which on a GPU end in a device-side assert.

    Labels that a data set uses for "unlabelled" become ``ignore_index`` first.

    Optional key: ``gt_seg_map``, (H, W), uint8, as ``LoadAnnotations`` leaves it. Without one, as
    in inference, there is nothing to check.

    Args:
        num_classes: Number of classes; labels are 0 to num_classes - 1.
        unlabelled: Other labels that take no part in training. Default: none.
        ignore_index: Label that takes no part in training. Default: 255.

    Raises:
        ValueError: There are other labels.
    """

    def __init__(self, num_classes: int, unlabelled: tuple[int, ...] = (), ignore_index: int = 255):
        self.num_classes = num_classes
        self.unlabelled = list(unlabelled)
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        labels = results.get('gt_seg_map')
        if labels is None:
            return results
        if labels.ndim != 2:
            raise ValueError(
                f'label image of shape {labels.shape}; it must have one channel of class numbers'
            )
        counts = np.bincount(labels.ravel(), minlength=256)
        if counts[self.unlabelled].any():
            labels[np.isin(labels, self.unlabelled)] = self.ignore_index
        counts[[*self.unlabelled, self.ignore_index]] = 0
        outside = np.flatnonzero(counts[self.num_classes :]) + self.num_classes
        if outside.size:
            given = np.flatnonzero(np.isin(_loaded_values(results), outside))
            shift = ''
            if not np.array_equal(given, outside):
                keys = [key for key in ('reduce_zero_label', 'label_map') if results.get(key)]
                shift = f'after {" and ".join(keys)} they are {outside.tolist()}, and '
            raise ValueError(
                f'label values {given.tolist()} are outside of the {self.num_classes} classes; '
                f'{shift}allowed are 0 to {self.num_classes - 1}, and as unlabelled '
                f'{[*self.unlabelled, self.ignore_index]}'
            )
        return results


def _loaded_values(results: dict) -> np.ndarray:
    """What mmseg's ``LoadAnnotations`` makes of each value in a label file."""
    values = np.arange(256)
    if results.get('reduce_zero_label'):
        values = np.array([255, *range(254), 255])
    loaded = values.copy()
    for old, new in (results.get('label_map') or {}).items():
        loaded[values == old] = new
    return loaded
