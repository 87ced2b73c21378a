"""Checks of image folders for classification, before a run starts.

mmpretrain numbers the classes by the sorted names of the folders in a split. A folder too many or
too few moves the labels of all that follow, without a word where the number fits.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log

from kat_mm.errors import UserError

# Of mmpretrain's data sets.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def check_class_folders(
    folder: Path,
    extensions: Sequence[str] = EXTENSIONS,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> list[str]:
    """Check a folder with one folder of images for each class.

    Args:
        folder: The split's folder.
        extensions: Of image files, in lower case.
        classes: Names of the classes of the data set, in the order of their labels.
        num_classes: Classes of the model's head.

    Returns:
        Names of the class folders, in the order of their labels.

    Raises:
        UserError: There are no class folders, one has no image, or their number or order is not
            that of the classes or of the head.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    names = [entry.name for entry in entries if entry.is_dir()]
    stray = [entry.name for entry in entries if not entry.is_dir()]
    if not names:
        raise UserError(
            f'data folder {folder} has no class folders; images belong into one folder for each '
            f'class, such as {folder}/cat/001.jpg'
        )
    if stray:
        print_log(f'Not in a class folder of {folder}, and ignored: {_some(stray)}', 'current')
    empty = [name for name in names if not _has_image(folder / name, tuple(extensions))]
    if empty:
        raise UserError(
            f'{len(empty)} of {len(names)} class folders in {folder} hold no images '
            f'({", ".join(extensions)}): {_some(empty)}; add their images, or remove the folders '
            'and give the model as many classes less'
        )
    if classes is not None:
        _check_classes(folder, names, classes)
    if num_classes is not None and len(names) != num_classes:
        raise UserError(
            f'data folder {folder} has {len(names)} class folders, and the head has '
            f'{num_classes} classes; set model.head.num_classes and '
            f'model.data_preprocessor.num_classes to {len(names)}, or mend the folders: '
            f'{_some(names)}'
        )
    return names


def _check_classes(folder: Path, names: list[str], classes: Sequence[str]) -> None:
    other = [name for name in names if name not in classes]
    if len(names) != len(classes):
        differing = other if len(other) < len(names) else []  # ImageNet's are named otherwise
        raise UserError(
            f'data folder {folder} has {len(names)} class folders, and the data set has '
            f'{len(classes)} classes'
            + (f'; not among these: {_some(differing)}' if differing else '')
            + '. Mend the folders, or name the classes in metainfo of the data set'
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


def check_same_classes(names: dict[str, list[str]]) -> None:
    """Refuse splits with other class folders than the first has, since their labels would differ.

    Args:
        names: Split to the names of its class folders.
    """
    first = next(iter(names), None)
    for split, found in names.items():
        odd = sorted(set(found) ^ set(names[first]))
        if odd:
            raise UserError(
                f'the {split} split has other class folders than the {first} split, so that the '
                f'labels would not agree; in one of them alone: {_some(odd)}'
            )


def _has_image(folder: Path, extensions: tuple[str, ...]) -> bool:
    return any(
        name.lower().endswith(extensions) and not name.startswith('.')
        for _, _, files in os.walk(folder)
        for name in files
    )


def _some(names: Sequence[str]) -> str:
    shown = ', '.join(names[:5])
    return shown if len(names) <= 5 else f'{shown} and {len(names) - 5} more'
