"""Checks of image folders for classification, before a run starts.

mmpretrain numbers the classes by the sorted names of the folders in a split. A folder too many or
too few moves the labels of all that follow, without a word where the number fits.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from kat_mm.errors import UserError

# Of mmpretrain's data sets.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


class ClassFolders(NamedTuple):
    """The class folders of a split.

    Args:
        folder: The split's folder.
        names: Names of the folders in it, in the order of their labels.
        classes: Names of the classes of the data set, in the order of their labels.
    """

    folder: Path
    names: list[str]
    classes: Sequence[str] | None


def find_class_folders(folder: Path, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """List a folder with one folder of images for each class.

    Args:
        folder: The split's folder.
        extensions: Of image files, in lower case.

    Returns:
        Names of the class folders, in the order of their labels.

    Raises:
        UserError: There are no class folders, one has no image, or one is hidden.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    names = [entry.name for entry in entries if entry.is_dir()]
    stray = [entry.name for entry in entries if not entry.is_dir()]
    if not names:
        raise UserError(
            f'data folder {folder} has no class folders; images belong into one folder for each '
            f'class, such as {folder}/cat/001.jpg'
        )
    hidden = [name for name in names if name.startswith('.')]
    if hidden:
        raise UserError(
            f'data folder {folder} has hidden folders, which mmpretrain takes for classes: '
            f'{_some(hidden)}; remove them'
        )
    if stray:
        print_log(f'Not in a class folder of {folder}, and ignored: {_some(stray)}', 'current')
    empty = [name for name in names if not _has_image(folder / name, tuple(extensions))]
    if empty:
        raise UserError(
            f'{len(empty)} of {len(names)} class folders in {folder} hold no images '
            f'({", ".join(extensions)}): {_some(empty)}; add the images of those that are classes, '
            'and remove the others'
        )
    return names


def check_class_folders(splits: dict[str, ClassFolders], num_classes: int | None) -> None:
    """Check that the class folders of all splits, the data sets' classes and the head agree.

    Args:
        splits: Names of the splits to their class folders.
        num_classes: Classes of the model's head.

    Raises:
        UserError: A split has other class folders than the first has, so that their labels would
            differ; or their number or order is not that of the classes or of the head.
    """
    first = next(iter(splits), None)
    for split, (folder, names, _) in splits.items():
        lacking, extra = _differences(splits[first].names, names)
        if lacking or extra:
            raise UserError(
                f'{splits[first].folder} and {folder} have other class folders, so that the labels '
                f'of {first} and {split} would not agree: {first} alone has {_some(lacking)}, '
                f'{split} alone {_some(extra)}. Add the folders that are missing, or remove those '
                'that are no classes'
            )
    for folder, names, classes in splits.values():
        if classes is not None:
            _check_classes(folder, names, classes)
        if num_classes is not None and len(names) != num_classes:
            raise UserError(
                f'data folder {folder} has {len(names)} class folders, and the head has '
                f'{num_classes} classes; set model.head.num_classes and '
                f'model.data_preprocessor.num_classes to {len(names)}, or mend the folders: '
                f'{_some(names)}'
            )


def _differences(expected: Sequence[str], found: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is missing, and what there is besides."""
    return (
        [name for name in expected if name not in found],
        [name for name in found if name not in expected],
    )


def _check_classes(folder: Path, names: list[str], classes: Sequence[str]) -> None:
    lacking, other = _differences(classes, names)
    if len(names) != len(classes):
        if len(other) < len(names):
            differing = f'missing: {_some(lacking)}, not among the classes: {_some(other)}'
        else:  # ImageNet's are named otherwise
            differing = _some(names)
        raise UserError(
            f'data folder {folder} has {len(names)} class folders, and the data set has '
            f'{len(classes)} classes ({differing}). Mend the folders, or name the classes in '
            'metainfo of the data set'
        )
    if not other and list(classes) != names:
        raise UserError(
            f'metainfo.classes is not in the order of the folders in {folder}, by which labels '
            f'are numbered; sort it: {_some(names)}'
        )


def check_annotation_file(path: Path, num_classes: int | None) -> None:
    """Check a file of lines ``image label``.

    Raises:
        UserError: A line has no label, or one outside of the classes of the head.
    """
    if not path.is_file():
        raise UserError(f'annotation file {path} does not exist; each line is: IMAGE LABEL')
    for number, line in enumerate(path.read_text().splitlines(), 1):
        label = line.rpartition(' ')[2]
        if not label.isdecimal() or (num_classes is not None and int(label) >= num_classes):
            expected = f'0 to {num_classes - 1}' if num_classes else 'a number from 0'
            raise UserError(
                f'{path}, line {number}: {line!r} must end in a label of {expected}, behind a space'
            )


def _has_image(folder: Path, extensions: tuple[str, ...]) -> bool:
    return any(
        name.lower().endswith(extensions) and not name.startswith('.')
        for _, _, files in os.walk(folder)
        for name in files
    )


def _some(names: Sequence[str]) -> str:
    shown = ', '.join(names[:5]) or 'none'
    return shown if len(names) <= 5 else f'{shown} and {len(names) - 5} more'
