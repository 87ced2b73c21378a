"""Pascal VOC's annotations, an XML file for each image, to COCO's, a JSON file for each split."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from kat_mm.datasets.image_files import file_problem, image_size
from kat_mm.datasets.text_files import read_text
from kat_mm.errors import UserError
from kat_mm.whole_files import check_inside, write_whole

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
# A line of VOC's own lists for single classes: an image, and whether the class is in it.
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_CLASS_LINE = re.compile(r'\S.*\s(-1|0|1)')


def voc_to_coco(
    root: str | Path, classes: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> dict[str, dict]:
    """Write ``annotations/<split>.json`` for each split of a folder in Pascal VOC's layout.

    VOC counts pixels from 1 and includes the last: (xmin, ymin, xmax, ymax) becomes COCO's
    (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1). Boxes whose corners coincide are left
    out; "difficult" objects become crowds, which evaluation ignores. The size of an image is taken
    from the image, and one that the XML file says must be the same.

    Everything is read before anything is written.

    Args:
        root: Folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        classes: Names of the classes, in the order of the labels. Default: all that occur, sorted.
        splits: Names of the files in ``ImageSets/Main``, without .txt. Default: all but VOC's own
            lists for single classes, which say 1, 0 or -1 behind each image.

    Returns:
        For each split, ``images``, ``boxes`` by class, and the files of boxes that are ``left_out``
        (without area) or ``outside`` (more than a pixel outside of their image).

    Raises:
        UserError: A file is missing or is not VOC's, an image has another size than its XML file
            says, or an object is of another class.
    """
    root = Path(root)
    lists = root / 'ImageSets' / 'Main'
    for folder in (root / 'Annotations', lists, root / 'JPEGImages'):
        if not folder.is_dir():
            raise UserError(
                f'{folder} does not exist; Pascal VOC has Annotations, ImageSets/Main and '
                'JPEGImages in one folder'
            )
    files = defaultdict(list)
    for path in (root / 'JPEGImages').iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files[path.stem].append(path)
    splits = splits or sorted(p.stem for p in lists.glob('*.txt') if _lists_images(p, files))
    if not splits:
        raise UserError(f'{lists} holds no lists *.txt of the images of each split')
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
    check_inside(folder, root)
    try:
        for split, content in contents.items():
            with write_whole(folder / f'{split}.json') as temporary:
                temporary.write_text(json.dumps(content) + '\n')
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}') from error
    return report


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _lists_images(path: Path, files: dict[str, list[Path]]) -> bool:
    """Whether a list is of a split: names of images may have spaces, and end in a number."""
    lines = _lines(path)
    is_of_class = lines and all(_CLASS_LINE.fullmatch(line) for line in lines)
    return not is_of_class or all(line in files for line in lines)


def _read_split(root: Path, split: str, files: dict[str, list[Path]]) -> list[dict]:
    path = root / 'ImageSets' / 'Main' / f'{split}.txt'
    if not path.is_file():
        raise UserError(f'{path} does not exist; it must list the images of the {split} split')
    names = _lines(path)
    lacking = [name for name in names if name not in files]
    if lacking:
        raise UserError(
            f'{len(lacking)} of {len(names)} images of {path} are missing in '
            f'{root / "JPEGImages"}, the first {lacking[0]}; each line is the name of an image '
            'without its ending'
        )
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise UserError(f'{path} lists {len(twice)} images more than once, the first {twice[0]}')
    return [_read_sample(root, name, files[name]) for name in names]


def _read_sample(root: Path, name: str, images: list[Path]) -> dict:
    if len(images) > 1:
        found = ', '.join(sorted(image.name for image in images))
        raise UserError(f'{root / "JPEGImages"} has several images {name}: {found}; keep one')
    (image,) = images
    sample = _read_xml(root / 'Annotations' / f'{name}.xml')
    try:
        size = image_size(image)
    except OSError as error:
        raise UserError(f'{image} {file_problem(image) or f"is no image: {error}"}') from error
    if sample['size'] not in (size, None):
        raise UserError(
            f'{root / "Annotations" / name}.xml says that the image has {sample["size"][0]}x'
            f'{sample["size"][1]} pixels, but {image} has {size[0]}x{size[1]} (as its EXIF '
            'orientation shows it); its boxes are of another image, or of one that was resized'
        )
    return dict(sample, size=size, file_name=image.name)


def _read_xml(path: Path) -> dict:
    """Size, or None, and objects (class, difficult, four coordinates) of an image."""
    try:
        tree = ElementTree.parse(path).getroot()
        size = tuple(int(tree.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
        objects = []
        for obj in tree.iter('object'):
            corners = [float(obj.find(f'bndbox/{key}').text) for key in _CORNERS]
            if not all(map(math.isfinite, corners)):
                raise ValueError(f'a box has the corners {corners}')
            difficult = int(obj.findtext('difficult') or 0)
            objects.append((obj.find('name').text.strip(), difficult, *corners))
    except FileNotFoundError:
        raise UserError(f'{path} does not exist, although ImageSets/Main lists it') from None
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no annotation of Pascal VOC's: {error}. It needs for each object name "
            f'and bndbox/{{{",".join(_CORNERS)}}}'
        ) from error
    # Some tools write 0 for a size that they do not know.
    return dict(size=size if min(size) > 0 else None, objects=objects, xml=path.name)


def _to_coco(samples: list[dict], classes: list[str]) -> tuple[dict, dict]:
    images, annotations, left_out, outside = [], [], [], []
    for image_id, sample in enumerate(samples, start=1):
        image_width, image_height = sample['size']
        images.append(
            dict(
                id=image_id,
                file_name=sample['file_name'],
                width=image_width,
                height=image_height,
            )
        )
        for name, difficult, xmin, ymin, xmax, ymax in sample['objects']:
            if xmax <= xmin or ymax <= ymin:
                left_out.append(sample['xml'])
                continue
            if min(xmin, ymin) < 0 or xmax > image_width + 1 or ymax > image_height + 1:
                outside.append(sample['xml'])
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
        dict(report, left_out=left_out, outside=outside),
    )
