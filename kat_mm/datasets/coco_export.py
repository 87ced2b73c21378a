"""Data sets as labelling tools export them: a folder for each split, annotations among its images.

``train/_annotations.coco.json``, ``train/0000.jpg``, ... Such files number objects from 0, which
COCO's evaluation counts as never found, and begin with a root category that no object has and whose
name another one may have, which mmdet takes for a class.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kat_mm.datasets.image_files import image_size
from kat_mm.errors import UserError
from kat_mm.whole_files import check_inside, write_whole

ANNOTATIONS = '_annotations.coco.json'
# Label of pixels that lie in no object.
UNLABELLED = 255


def prepare_coco_export(root: str | Path) -> dict[str, dict]:
    """Write COCO's annotation files and label images of an export.

    ``annotations/SPLIT.json`` has objects numbered from 1, and no category without an object whose
    name is that of another one, or of a tool's root. ``labels/SPLIT/NAME.png`` has the class of
    each pixel, numbered from 0 in their order; 255 is in none. Objects are drawn from the largest
    to the smallest, so that what lies on something else is seen. Images stay where they are.

    Args:
        root: Folder of the splits.

    Returns:
        For each split its number of ``images``, and of ``objects`` by class.

    Raises:
        UserError: There is no such file, it is not COCO's, classes differ between splits, or two
            that have objects have the same name; an image is missing, of another size, or of the
            name of another one; an object has no mask; or a link leads out of the folder.
    """
    root = Path(root)
    paths = sorted(root.glob(f'*/{ANNOTATIONS}'))
    if not paths:
        raise UserError(
            f'{root} has no folder with {ANNOTATIONS}; it must be an export with a folder for each '
            'split, for example train and valid'
        )
    contents = {path.parent.name: _read(path) for path in paths}
    categories = _used_categories(contents, root)
    for split, content in contents.items():
        for place in (f'annotations/{split}.json', f'labels/{split}'):
            check_inside(root / place, root)
        _check_images(root / split, content['images'])
    for split, content in contents.items():
        objects = [dict(one, id=i) for i, one in enumerate(content['annotations'], start=1)]
        contents[split] = {**content, 'categories': categories, 'annotations': objects}
    try:
        # All label images, before anything takes the place of what is there.
        with tempfile.TemporaryDirectory(prefix='.labels', dir=root) as folder:
            for split, content in contents.items():
                _write_labels(Path(folder, split), content)
            for split, content in contents.items():
                shutil.rmtree(root / 'labels' / split, ignore_errors=True)
                (root / 'labels').mkdir(exist_ok=True)
                Path(folder, split).replace(root / 'labels' / split)
                with write_whole(root / f'annotations/{split}.json') as temporary:
                    temporary.write_text(json.dumps(content))
    except OSError as error:
        raise UserError(f'cannot write to {root}: {error.strerror or error}') from error
    return {split: _count(content) for split, content in contents.items()}


def _count(content: dict) -> dict:
    counts = Counter(one['category_id'] for one in content['annotations'])
    objects = {one['name']: counts[one['id']] for one in content['categories']}
    return dict(images=len(content['images']), objects=objects)


def _check_images(folder: Path, images: list[dict]) -> None:
    """Refuse images that are not there, of another size than is said, or of one name."""
    stems: dict[str, str] = {}
    for image in images:
        name = image.get('file_name')
        if not isinstance(name, str) or not (folder / name).is_file():
            raise UserError(f'{folder} has no image {name!r}, which its {ANNOTATIONS} lists')
        try:
            size = image_size(folder / name)
        except OSError as error:
            raise UserError(f'{folder / name} is no image: {error}') from error
        if (image.get('width'), image.get('height')) != size:
            raise UserError(
                f'{folder / ANNOTATIONS} says that {name} has {image.get("width")!r} x '
                f'{image.get("height")!r} pixels, but it has {size[0]} x {size[1]} (width x '
                'height, as its EXIF orientation shows it); its objects are of another image, or '
                'of a resized one'
            )
        other = stems.get(Path(name).stem)
        if other is not None:
            raise UserError(
                f'{folder / ANNOTATIONS} lists {other} and {name}, whose label images would be one '
                'file; rename one of them in the export, or list it once'
            )
        stems[Path(name).stem] = name


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
        {one['id'] for one in content['categories'] + content['images']}
        {(one['category_id'], one['image_id']) for one in content['annotations']}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f'{path} is no annotation file of COCO ({type(error).__name__}: {error}); export the '
            'data set as COCO'
        ) from error
    return content


def _used_categories(contents: dict[str, dict], root: Path) -> list[dict]:
    first, *others = contents
    for split in others:
        names = [
            {one['id']: one['name'] for one in contents[part]['categories']}
            for part in (first, split)
        ]
        if names[0] != names[1]:
            raise UserError(
                f'{root}: the categories of {first} and {split} differ: {names[0]}; {names[1]}'
            )
    used = {one['category_id'] for part in contents.values() for one in part['annotations']}
    given = contents[first]['categories']
    names = Counter(one['name'] for one in given)
    kinds = {one.get('supercategory') for one in given}
    categories = [
        one
        for one in given
        if one['id'] in used or (names[one['name']] == 1 and one['name'] not in kinds)
    ]
    unknown = used - {one['id'] for one in categories}
    twice = [name for name, n in Counter(one['name'] for one in categories).items() if n > 1]
    if unknown or twice:
        what = (
            f'category {min(unknown)} is not listed' if unknown else f'{twice[0]!r} is there twice'
        )
        raise UserError(f'{root}: of the categories that objects have, {what}; mend the export')
    return categories


def _write_labels(folder: Path, content: dict) -> None:
    # Imported here: it comes with mmdet, and only those who draw masks need it.
    from pycocotools import mask as rle

    labels = {one['id']: label for label, one in enumerate(content['categories'])}
    if len(labels) > UNLABELLED:
        raise UserError(f'{len(labels)} categories; a label image tells {UNLABELLED} apart')
    objects: dict = {}
    for one in content['annotations']:
        objects.setdefault(one['image_id'], []).append(one)
    folder.mkdir(parents=True)
    for image in content['images']:
        height, width = image['height'], image['width']
        picture = np.full((height, width), UNLABELLED, np.uint8)
        masks = []
        for one in objects.get(image['id'], ()):
            try:
                parts = rle.frPyObjects(one['segmentation'], height, width)
                mask = rle.decode(rle.merge(parts) if isinstance(parts, list) else parts)
            except Exception as error:
                raise UserError(
                    f'object {one["id"]} of {image["file_name"]} has no mask: its segmentation is '
                    f'{str(one.get("segmentation"))[:80]} ({type(error).__name__}: {error}). '
                    'Export the data set with masks'
                ) from error
            masks.append((mask.astype(bool), labels[one['category_id']]))
        for mask, label in sorted(masks, key=lambda pair: -pair[0].sum()):
            picture[mask] = label
        Image.fromarray(picture).save(folder / f'{Path(image["file_name"]).stem}.png')


def describe(written: dict[str, dict]) -> Sequence[str]:
    """A line for each split."""
    return [
        f'{split}: {found["images"]} images, '
        + ', '.join(f'{number} {name}' for name, number in found['objects'].items())
        for split, found in written.items()
    ]
