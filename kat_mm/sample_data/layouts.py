"""Scenes written in the layouts of ADE20K, COCO and ImageNet."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .coco_categories import COCO_CATEGORIES, COCO_STUFF, list_categories
from .kinds import KINDS, Kind
from .masks import box_of, polygons_of, rle_of
from .scenes import Scene, draw_scene
from .settings import SETTINGS


class SampleSettings(NamedTuple):
    """What decides the content of a sample data set.

    Args:
        num_train, num_val: Number of images of each split.
        width, height: Mean size of the images in pixels; each differs by up to 15 %.
        seed: Another seed draws other images.
    """

    num_train: int = 64
    num_val: int = 16
    width: int = 256
    height: int = 192
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError, naming the setting, if one is out of range."""
        ranges = {
            'num_train': (1, 10**6),
            'num_val': (1, 10**6),
            'width': (32, 4096),
            'height': (32, 4096),
            'seed': (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f'{name} must be from {low} to {high}, but it is {value}')

    def splits(self) -> tuple[tuple[str, int], ...]:
        """Return the name and the number of images of each split."""
        return ('train', self.num_train), ('val', self.num_val)

    def draw(
        self, split: str, index: int, subject: str | None = None, empty: bool = False
    ) -> Scene:
        """Return the scene of image ``index`` of a split; see :func:`draw_scene` for the rest."""
        rng = np.random.default_rng([self.seed, ('train', 'val').index(split), index])
        width = round(self.width * rng.uniform(0.85, 1.15))
        height = round(self.height * rng.uniform(0.85, 1.15))
        if subject:
            settings = KINDS[subject].settings
            setting = settings[rng.integers(len(settings))]
        else:
            setting = list(SETTINGS)[index % len(SETTINGS)]  # so that few images show them all
        return draw_scene(rng, width, height, setting, subject, empty)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) RGB or (H, W) uint8 image; raises OSError where it cannot."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Not cv2.imwrite, which reports a full disk only by its return value
    _, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON on one line; raises OSError where it cannot."""
    path.write_text(json.dumps(value) + '\n')


def write_ade20k(folder: Path, settings: SampleSettings) -> None:
    """Write the images and label images of ADEChallengeData2016 into a new folder."""
    for split, count in settings.splits():
        directory = {'train': 'training', 'val': 'validation'}[split]
        images = folder / 'ADEChallengeData2016' / 'images' / directory
        annotations = folder / 'ADEChallengeData2016' / 'annotations' / directory
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for index in range(count):
            scene = settings.draw(split, index)
            name = f'ADE_{split}_{index + 1:08d}'
            write_image(images / f'{name}.jpg', scene.image)
            write_image(annotations / f'{name}.png', scene.semantic_map())


def panoptic_annotation(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """Return COCO's panoptic picture of a scene, (H, W, 3) uint8, and its ``segments_info``.

    A pixel's colour is the id of its segment, R + 256 G + 65536 B; black is no segment.
    """
    ids = np.zeros(scene.segment_ids.shape, np.uint32)
    infos = []
    for number, (category, iscrowd, mask) in enumerate(scene.panoptic_segments(), start=1):
        segment = number * 61_001  # far apart, so that neighbours differ to the eye
        ids[mask] = segment
        infos.append(
            {
                'id': segment,
                'category_id': category,
                'iscrowd': int(iscrowd),
                'bbox': box_of(mask),
                'area': int(mask.sum()),
            }
        )
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8), infos


def coco_annotation(kind: Kind, mask: np.ndarray) -> dict:
    """Return the annotation of an object, without its ids of annotation and image."""
    if kind.iscrowd:
        segmentation = rle_of(mask)
    else:
        segmentation, mask = polygons_of(mask)
    return {
        'category_id': kind.coco,
        'bbox': [float(v) for v in box_of(mask)],
        'area': float(mask.sum()),
        'iscrowd': int(kind.iscrowd),
        'segmentation': segmentation,
    }


def write_coco(folder: Path, settings: SampleSettings) -> None:
    """Write images, instance and panoptic annotations of COCO 2017 into a new folder."""
    categories = list_categories(COCO_CATEGORIES)
    panoptic_categories = [
        {
            **category,
            'isthing': isthing,
            'color': [category['id'] * f % 256 for f in (67, 131, 197)],
        }
        for names, isthing in ((COCO_CATEGORIES, 1), (COCO_STUFF, 0))
        for category in sorted(list_categories(names), key=lambda category: category['id'])
    ]
    (folder / 'annotations').mkdir()
    for split, count in settings.splits():
        (folder / f'{split}2017').mkdir()
        pictures = folder / 'annotations' / f'panoptic_{split}2017'
        pictures.mkdir()
        images, annotations, panoptic = [], [], []
        for index in range(count):
            # COCO has images without an object, which data pipelines must endure
            scene = settings.draw(split, index, empty=index % 8 == 7)
            image_id = index + 1
            name = f'{image_id:012d}'
            height, width = scene.segment_ids.shape
            write_image(folder / f'{split}2017' / f'{name}.jpg', scene.image)
            images.append(
                {
                    'license': 1,
                    'file_name': f'{name}.jpg',
                    'height': height,
                    'width': width,
                    'id': image_id,
                }
            )
            for number, (kind, mask) in enumerate(scene.instances(), start=1):
                annotations.append(
                    dict(
                        id=image_id * 1000 + number,
                        image_id=image_id,
                        **coco_annotation(kind, mask),
                    )
                )
            picture, infos = panoptic_annotation(scene)
            write_image(pictures / f'{name}.png', picture)
            panoptic.append(
                {'image_id': image_id, 'file_name': f'{name}.png', 'segments_info': infos}
            )
        content = {
            'info': {'description': 'Drawn scenes in the layout of COCO 2017', 'version': '1.0'},
            'licenses': [
                {'id': 1, 'name': 'Apache-2.0', 'url': 'https://www.apache.org/licenses/'}
            ],
            'images': images,
        }
        for task, of_task, names in (
            ('instances', annotations, categories),
            ('panoptic', panoptic, panoptic_categories),
        ):
            write_json(
                folder / 'annotations' / f'{task}_{split}2017.json',
                {**content, 'annotations': of_task, 'categories': names},
            )


def imagenet_subjects() -> list[str]:
    """Return the names of the objects that are classes of ImageNet."""
    return [name for name, kind in KINDS.items() if kind.synset]


def write_imagenet(folder: Path, settings: SampleSettings) -> None:
    """Write class folders of ImageNet's into a new folder, the classes in turns."""
    subjects = imagenet_subjects()
    for split, count in settings.splits():
        for index in range(count):
            subject = subjects[index % len(subjects)]
            synset = KINDS[subject].synset
            number = {'train': f'{synset}_{index + 1}', 'val': f'ILSVRC2012_val_{index + 1:08d}'}
            (folder / split / synset).mkdir(parents=True, exist_ok=True)
            scene = settings.draw(split, index, subject=subject)
            write_image(folder / split / synset / f'{number[split]}.JPEG', scene.image)


WRITERS = {'ade20k': write_ade20k, 'coco': write_coco, 'imagenet': write_imagenet}
# As the configs of OpenMMLab name them below data/
FOLDERS = {'ade20k': 'ade', 'coco': 'coco', 'imagenet': 'imagenet'}
