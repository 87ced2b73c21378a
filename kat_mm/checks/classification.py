"""Image folders and lists for classification.

mmpretrain numbers the classes by the sorted names of the folders in a split. A folder too many or
too few moves the labels of all that follow, without a word where the number fits.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from kat_mm.checks.files import list_files
from kat_mm.checks.progress import Progress
from kat_mm.datasets.text_files import read_text
from kat_mm.errors import UserError, some

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


def is_classification(cls: type) -> bool:
    """Whether a data set is mmpretrain's CustomDataset or ImageNet, or finds images as they do."""
    if not cls.__module__.startswith('mmpretrain.'):
        return False
    from mmpretrain.datasets import CustomDataset

    return issubclass(cls, CustomDataset) and cls.load_data_list is CustomDataset.load_data_list


def check_classification(
    dataset: dict, folder: Path, classes: Sequence[str] | None, num_classes: int | None
) -> ClassFolders | None:
    """Check the list or the class folders of a data set.

    Args:
        dataset: Its config.
        folder: The folder of its images.
        classes: Names of its classes, where it names them.
        num_classes: Classes of the model's head.

    Returns:
        The class folders, where labels come from them.
    """
    if not dataset.get('with_label', True):
        return None
    root = Path(dataset.get('data_root') or '')
    ann_file = dataset.get('ann_file')
    default = root / 'meta' / f'{dataset.get("split")}.txt'
    if ann_file or ('split' in dataset and default.is_file()):
        check_annotation_file(
            root / ann_file if ann_file else default, len(classes) if classes else num_classes
        )
        return None
    extensions = dataset.get('extensions', EXTENSIONS)
    return ClassFolders(folder, find_class_folders(folder, extensions), classes)


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
            f'{some(hidden)}; remove them'
        )
    if stray:
        print_log(f'Not in a class folder of {folder}, and ignored: {some(stray)}', 'current')
    empty = _empty_folders(folder, names, tuple(extensions))
    if empty:
        raise UserError(
            f'{len(empty)} of {len(names)} class folders in {folder} hold no images '
            f'({", ".join(extensions)}): {some(empty)}; add the images of those that are classes, '
            'and remove the others'
        )
    return names


def _empty_folders(folder: Path, names: list[str], extensions: tuple[str, ...]) -> list[str]:
    """Those without an image; images of other formats are counted in the log."""
    empty, others, broken, seen = [], Counter(), [], 0
    progress = Progress(f'class folders in {folder}, files')
    for name in names:
        files, links = list_files(folder / name)
        kept = sum(file.lower().endswith(extensions) for file in files)
        if kept < len(files):
            others.update(
                os.path.splitext(file)[1] or file
                for file in files
                if not file.lower().endswith(extensions)
            )
        if not kept:
            empty.append(name)
        broken += [f'{name}/{link}' for link in links]
        seen += len(files)
        progress(seen)
    if others:
        counts = (f'{count} {suffix}' for suffix, count in others.most_common())
        print_log(
            f'{others.total()} of {seen} files in the class folders of {folder} are left out: '
            f'{some(counts)}; read are {", ".join(extensions)}',
            'current',
        )
    if broken:
        print_log(
            f'{len(broken)} links in {folder} lead nowhere and are left out: {some(broken)}',
            'current',
        )
    return empty


def check_class_folders(splits: dict[str, ClassFolders]) -> None:
    """Check that the class folders of all splits and the data sets' classes agree.

    Args:
        splits: Names of the splits to their class folders.

    Raises:
        UserError: A split has other class folders than the first has, so that their labels would
            differ; or their number or order is not that of the data set's classes.
    """
    first = next(iter(splits), None)
    for split, (folder, names, _) in splits.items():
        lacking, extra = _differences(splits[first].names, names)
        if lacking or extra:
            raise UserError(
                f'{splits[first].folder} and {folder} have other class folders, so that the labels '
                f'of {first} and {split} would not agree: {first} alone has {some(lacking)}, '
                f'{split} alone {some(extra)}. Add the folders that are missing, or remove those '
                'that are no classes'
            )
    for folder, names, classes in splits.values():
        if classes is not None:
            _check_classes(folder, names, classes)


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
            differing = f'missing: {some(lacking)}, not among the classes: {some(other)}'
        else:  # ImageNet's are named otherwise
            differing = some(names)
        raise UserError(
            f'data folder {folder} has {len(names)} class folders, and the data set has '
            f'{len(classes)} classes ({differing}). Mend the folders, or name the classes in '
            'metainfo of the data set'
        )
    if not other and list(classes) != names:
        raise UserError(
            f'metainfo.classes is not in the order of the folders in {folder}, by which labels '
            f'are numbered; sort it: {some(names)}'
        )


def check_annotation_file(path: Path, num_classes: int | None) -> None:
    """Check a file of lines ``image label``.

    Raises:
        UserError: There are no lines, one has no label or one outside of the head's classes, or
            two give one image different labels.
    """
    if not path.is_file():
        raise UserError(f'annotation file {path} does not exist; each line is: IMAGE LABEL')
    lines = read_text(path).splitlines()
    if not lines:
        raise UserError(f'annotation file {path} is empty; each line is: IMAGE LABEL')
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        image, _, label = line.rpartition(' ')
        is_label = label.isdecimal() and (num_classes is None or int(label) < num_classes)
        if not image.strip() or not is_label:
            expected = f'0 to {num_classes - 1}' if num_classes else 'a number from 0'
            raise UserError(
                f'{path}, line {number}: {line!r} must be an image, and behind a space its label '
                f'of {expected}'
            )
        if labels.setdefault(image, int(label)) != int(label):
            raise UserError(
                f'{path}, line {number}: {image} has the label {int(label)}, and on a line before '
                f'it {labels[image]}; leave one of them'
            )
    if len(labels) < len(lines):
        print_log(f'{path} lists {len(lines) - len(labels)} images more than once', 'current')
    if num_classes and (absent := sorted(set(range(num_classes)) - set(labels.values()))):
        print_log(f'{path} has no image of {len(absent)} labels: {some(absent)}', 'current')
