"""Pascal VOC's annotations, an XML file for each image, to COCO's, a JSON file for each split."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from kat_mm.errors import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


def voc_to_coco(
    root: str | Path, classes: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> dict[str, dict]:
    """Write ``annotations/<split>.json`` for each split of a folder in Pascal VOC's layout.

    VOC counts pixels from 1 and includes the last: (xmin, ymin, xmax, ymax) becomes COCO's
    (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1). Boxes whose corners coincide are left
    out; "difficult" objects become crowds, which evaluation ignores.

    Everything is read before anything is written.

    Args:
        root: Folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        classes: Names of the classes, in the order of the labels. Default: all that occur, sorted.
        splits: Names of the files in ``ImageSets/Main``, without .txt. Default: all but VOC's own
            lists for single classes, which say 1, 0 or -1 behind each image.

    Returns:
        For each split, ``images``, ``boxes`` by class, and ``left_out``, the boxes without area by
        their file.

    Raises:
        UserError: A file is missing or is not VOC's, or an object is of another class.
    """
    root = Path(root)
    lists = root / 'ImageSets' / 'Main'
    for folder in (root / 'Annotations', lists, root / 'JPEGImages'):
        if not folder.is_dir():
            raise UserError(
                f'{folder} does not exist; Pascal VOC has Annotations, ImageSets/Main and '
                'JPEGImages in one folder'
            )
    splits = splits or sorted(path.stem for path in lists.glob('*.txt') if _lists_images(path))
    if not splits:
        raise UserError(f'{lists} holds no lists *.txt of the images of each split')
    files = {path.stem: path.name for path in (root / 'JPEGImages').iterdir() if _is_image(path)}
    samples = {split: _read_split(root, split, files) for split in splits}
    found = {obj[0] for split in samples.values() for sample in split for obj in sample['objects']}
    classes = list(classes or sorted(found))
    if not found <= set(classes):
        raise UserError(
            f'{root / "Annotations"} has objects of the classes {", ".join(sorted(found))}, which '
            f'are not all among those given: {", ".join(classes)}'
        )
    contents, report = {}, {}
    for split, read in samples.items():
        contents[split], report[split] = _to_coco(read, classes)
    folder = root / 'annotations'
    folder.mkdir(exist_ok=True)
    for split, content in contents.items():
        temporary = folder / f'.{split}.json.{os.getpid()}'
        temporary.write_text(json.dumps(content) + '\n')
        temporary.replace(folder / f'{split}.json')
    return report


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _lists_images(path: Path) -> bool:
    return len(path.read_text().partition('\n')[0].split()) == 1


def _read_split(root: Path, split: str, files: dict[str, str]) -> list[dict]:
    path = root / 'ImageSets' / 'Main' / f'{split}.txt'
    if not path.is_file():
        raise UserError(f'{path} does not exist; it must list the images of the {split} split')
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    lacking = [name for name in names if name not in files]
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} images of {path} are missing in '
            f'{root / "JPEGImages"}, the first {lacking[0]}'
        )
    return [
        dict(_read_xml(root / 'Annotations' / f'{name}.xml'), file_name=files[name])
        for name in names
    ]


def _read_xml(path: Path) -> dict:
    """Size and objects (class, difficult, four coordinates) of an image."""
    try:
        tree = ElementTree.parse(path).getroot()
        size = {side: int(tree.find(f'size/{side}').text) for side in ('width', 'height')}
        objects = []
        for obj in tree.iter('object'):
            corners = (float(obj.find(f'bndbox/{key}').text) for key in _CORNERS)
            difficult = int(obj.findtext('difficult') or 0)
            objects.append((obj.find('name').text.strip(), difficult, *corners))
    except FileNotFoundError:
        raise UserError(f'{path} does not exist, although ImageSets/Main lists it') from None
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no annotation of Pascal VOC's: {error}. It needs size/width, size/height, "
            f'and for each object name and bndbox/{{{",".join(_CORNERS)}}}'
        ) from error
    if min(size.values()) < 1:
        raise UserError(f'{path} says that the image is {size["width"]} x {size["height"]} pixels')
    return dict(size, objects=objects, xml=path.name)


_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def _to_coco(samples: list[dict], classes: list[str]) -> tuple[dict, dict]:
    images, annotations, left_out = [], [], []
    for image_id, sample in enumerate(samples, start=1):
        images.append(
            dict(
                id=image_id,
                file_name=sample['file_name'],
                width=sample['width'],
                height=sample['height'],
            )
        )
        for name, difficult, xmin, ymin, xmax, ymax in sample['objects']:
            if xmax <= xmin or ymax <= ymin:
                left_out.append(sample['xml'])
                continue
            width, height = xmax - xmin + 1, ymax - ymin + 1
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=classes.index(name) + 1,
                    bbox=[xmin - 1, ymin - 1, width, height],
                    area=width * height,
                    iscrowd=int(bool(difficult)),
                )
            )
    categories = [dict(id=index, name=name) for index, name in enumerate(classes, start=1)]
    counts = Counter(classes[annotation['category_id'] - 1] for annotation in annotations)
    report = dict(images=len(images), boxes={name: counts[name] for name in classes})
    return (
        dict(images=images, annotations=annotations, categories=categories),
        dict(report, left_out=left_out),
    )
