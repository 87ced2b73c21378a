"""Loading that says which file is wrong, and what is wrong with it."""

import os

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.logging import print_log
from PIL import Image

from kat_mm.datasets.image_files import bits_per_channel, file_problem, is_turned, open_image
from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.errors import UserError, some

# What mmcv, OpenCV and Pillow raise for files that do not decode (AttributeError: from None).
_LOADING_ERRORS = (
    OSError,
    ValueError,
    AssertionError,
    AttributeError,
    cv2.error,
    Image.DecompressionBombError,
)


class LoadChecked(BaseTransform):
    """Run loading transforms; when one fails, or what it loads does not fit, name the files.

    OpenCV and Pillow see bytes, so their own errors cannot say which file does not decode. What an
    annotation file says of an image, and a label image, are compared with the decoded image.

    Args:
        transforms: Configs of the loading transforms, in order.

    Raises:
        UserError: A file is missing, does not decode, or does not pass a check.
    """

    def __init__(self, transforms: list[dict]):
        self.transforms = Compose(transforms)
        self._told_of_bits = False

    def transform(self, results: dict) -> dict:
        files = [str(value) for key, value in results.items() if key.endswith('_path') and value]
        try:
            for transform in self.transforms.transforms:
                before = set(results)
                results = transform(results)
                if results is None:
                    break
                new = set(results) - before
                if 'img' in new:
                    self._check_image(results)
                # As mmseg's data sets hand it on; mmdet's panoptic maps hold colours.
                if 'gt_seg_map' in new and 'reduce_zero_label' in results:
                    _check_label_image(results)
            return results
        except UserError:
            raise
        except FileNotFoundError as error:
            problem = file_problem(error.filename) or 'does not exist'
            raise UserError(
                f'{error.filename} {problem}, although the data set lists it (sample: '
                f'{", ".join(files)}); add the file, or remove the sample'
            ) from error
        except _LOADING_ERRORS as error:
            problems = [f'{file} {problem}' for file in files if (problem := file_problem(file))]
            reason = '; '.join(problems) or ' '.join(str(error).split())
            raise UserError(
                f'cannot load the sample {", ".join(files)}: {reason}. Repair or replace the file, '
                'or remove the sample from the data set'
            ) from error

    def _check_image(self, results: dict) -> None:
        path = results.get('img_path')
        height, width = results['img'].shape[:2]
        declared = results.get('width'), results.get('height')
        if None not in declared and declared != (width, height):
            turned = os.path.isfile(path) and is_turned(path) and declared == (height, width)
            raise UserError(
                f'the annotation file says that {path} has {_pixels(declared)}, but it has '
                f'{_pixels((width, height))}'
                + (', turned by the orientation in its EXIF data' if turned else '')
                + ', so that its boxes and masks lie elsewhere. Mend width, height and objects of '
                'the annotations, or the image; tools/check_data.py lists all such files'
            )
        if self._told_of_bits or results['img'].dtype != np.uint8:
            return
        if path and os.path.isfile(path) and (bits := bits_per_channel(path)) > 8:
            self._told_of_bits = True
            print_log(
                f'{path} has {bits} bits per channel, of which the upper 8 are used (and of other '
                'such images)',
                'current',
            )


def _check_label_image(results: dict) -> None:
    labels, path = results['gt_seg_map'], results.get('seg_map_path')
    image_shape = results.get('ori_shape')
    if image_shape is not None and labels.ndim < 2 and 1 in image_shape:
        # mmseg drops a side of one pixel.
        labels = labels.reshape((1, -1) if image_shape[0] == 1 else (-1, 1))
        results['gt_seg_map'] = labels
    if labels.ndim != 2:
        raise ValueError(
            f'label image of shape {labels.shape}; it must have one channel of class numbers, and '
            'not colours'
        )
    if image_shape is not None and labels.shape != tuple(image_shape[:2]):
        image = results.get('img_path')
        turned = os.path.isfile(image) and is_turned(image)
        raise UserError(
            f'label image {path} has {_pixels(labels.shape[::-1])}, but its image {image} has '
            f'{_pixels(image_shape[1::-1])}'
            + (', turned by the orientation in its EXIF data' if turned else '')
            + '; they must have the same'
        )
    # mmseg makes 8 bits of whatever it reads, modulo 256.
    if path and os.path.isfile(path) and bits_per_channel(path) > 8:
        with open_image(path) as image:
            values = np.unique(np.asarray(image))
        outside = values[(values < 0) | (values > 255) | (values % 1 != 0)].tolist()
        if outside:
            raise UserError(
                f'label image {path} has the values [{some(outside)}]; labels are whole numbers '
                'from 0 to 255. Number the classes from 0'
            )


def _pixels(size: tuple) -> str:
    return f'{size[0]}x{size[1]} pixels'


def check_loading(dataset: dict) -> None:
    """Have what loads and resizes, in a data set's config and what it wraps, name files.

    Done when a run starts and not in the config files: inference tools look there for
    ``LoadImageFromFile`` and ``LoadAnnotations`` by name.
    """
    for inner in inner_datasets(dataset):
        _wrap(inner.get('pipeline') or [])


def _wrap(pipeline: list) -> None:
    """Put loading transforms into LoadChecked, and resizing ones into ResizeChecked."""
    for index, transform in enumerate(pipeline):
        if isinstance(transform, list):  # one of several ways, as TestTimeAug has them
            _wrap(transform)
        elif type_name(transform) in (LoadChecked.__name__, ResizeChecked.__name__):
            continue
        elif is_loading(transform):
            pipeline[index] = dict(type=LoadChecked.__name__, transforms=[transform])
        elif 'Resize' in type_name(transform):
            pipeline[index] = dict(type=ResizeChecked.__name__, transform=transform)
        elif isinstance(transform.get('transforms'), list):
            _wrap(transform['transforms'])


def is_loading(transform: dict) -> bool:
    """Whether a transform's config is of one that loads, or looks at what was loaded."""
    name = type_name(transform)
    return name == CheckLabels.__name__ or name.startswith('Load')


class ResizeChecked(BaseTransform):
    """Run a transform that resizes; where a side would vanish, name the image.

    Args:
        transform: Config of the transform.

    Raises:
        UserError: An image is so much longer than wide that it cannot be resized.
    """

    def __init__(self, transform: dict):
        self._resize = Compose([transform])
        self._name = type_name(transform)

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        try:
            return self._resize(results)
        except cv2.error as error:
            raise UserError(
                f'image {results.get("img_path")} of {_pixels((width, height))} cannot be resized '
                f'by {self._name}: a side would have less than a pixel. Cut it, or remove the '
                'sample from the data set'
            ) from error


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
        ValueError: There are other labels, or an argument is no label of 8 bits.
    """

    def __init__(self, num_classes: int, unlabelled: tuple[int, ...] = (), ignore_index: int = 255):
        if not _is_label(num_classes) or num_classes < 1:
            raise ValueError(f'CheckLabels: num_classes={num_classes!r} must be 1 to 255')
        for name, values in (('unlabelled', unlabelled), ('ignore_index', [ignore_index])):
            if isinstance(values, int | str | bytes) or not all(map(_is_label, values)):
                given = values if name == 'unlabelled' else ignore_index
                raise ValueError(f'CheckLabels: {name}={given!r} must be labels from 0 to 255')
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


def _is_label(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _loaded_values(results: dict) -> np.ndarray:
    """What mmseg's ``LoadAnnotations`` makes of each value in a label file."""
    values = np.arange(256)
    if results.get('reduce_zero_label'):
        values = np.array([255, *range(254), 255])
    loaded = values.copy()
    for old, new in (results.get('label_map') or {}).items():
        loaded[values == old] = new
    return loaded
