"""What is written of predictions: pictures, JSON, COCO's results and label images."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from kat_mm.engine.sources import Image
from kat_mm.errors import UserError, some
from kat_mm.visualization.data_samples import OFFSET, label_map
from kat_mm.visualization.files import write_image
from kat_mm.visualization.predictions import Classes
from kat_mm.whole_files import write_whole


class Results:
    """A folder that gets what a model predicts, image by image.

    It has ``results.json``, written at the end; of segmenters ``labels/*.png``, of panoptic models
    ``panoptic/*.png`` and ``panoptic.json``, as COCO has them; of detectors ``coco_results.json``
    and ``coco_images.json``; and ``pictures``, with the frames of a video as a video.

    Args:
        folder: The folder; it is made.
        task: As of :class:`~kat_mm.engine.inference.Predictor`.
        classes: Their names.
        score_threshold: Least score of an object. Default: 0.3.
        image_info: A file of COCO with the images' and categories' numbers, as its test servers
            expect them. Default: they are counted from 1.
    """

    def __init__(
        self,
        folder: str | Path,
        task: str,
        classes: Classes,
        score_threshold: float = 0.3,
        image_info: str | Path | None = None,
    ):
        self.folder, self.task, self.classes = Path(folder), task, classes
        self.score_threshold = score_threshold
        self.entries: list[dict] = []
        self._numbers = _Numbers(classes, image_info)
        self._videos: dict[str, cv2.VideoWriter] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: Image, sample) -> None:
        """Write what was predicted for an image, a data sample of the task's library."""
        described = getattr(self, f'_{self.task}')(image.name, sample)
        assert image.pixels is not None  # or there were nothing to predict
        height, width = image.pixels.shape[:2]
        self.entries.append(dict(image=image.name, width=width, height=height, **described))

    def add_picture(self, image: Image, picture: np.ndarray) -> None:
        """Write the drawn prediction (H, W, 3), BGR; that of a frame becomes a frame."""
        folder = self.folder / 'pictures'
        if image.video is None:
            write_image(folder / image.name, picture)
            return
        name, rate = image.video
        if name not in self._videos:
            path = folder / f'{name}.mp4'
            path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            self._videos[name] = cv2.VideoWriter(str(path), codec, rate, picture.shape[1::-1])
            self._sizes[name] = picture.shape[1::-1]
            if not self._videos[name].isOpened():
                raise UserError(
                    f'cannot write {path}, a video of {picture.shape[1]} x {picture.shape[0]} '
                    f'pixels with {rate:g} frames/s; leave it out with --no-pictures'
                )
        # OpenCV leaves out frames of another size, without a word.
        self._videos[name].write(cv2.resize(picture, self._sizes[name]))

    def close(self) -> None:
        """Write the files that hold all images."""
        for video in self._videos.values():
            video.release()
        _write_json(self.folder / 'results.json', self.entries)
        if self.task == 'detection':
            self._write_coco()
        elif self.task == 'panoptic':
            keys = 'image_id', 'file_name', 'segments_info'
            found = [{key: entry[key] for key in keys} for entry in self.entries]
            _write_json(self.folder / 'panoptic.json', dict(annotations=found))

    def _classification(self, name: str, sample) -> dict:
        scores = sample.pred_score.float().cpu().numpy()
        best = np.argsort(-scores)[:5].tolist()
        top = [dict(label=i, name=self.classes.name(i), score=float(scores[i])) for i in best]
        return dict(**top[0], top5=top)

    def _segmentation(self, name: str, sample) -> dict:
        labels = label_map(sample.pred_sem_seg.data)
        path = self.folder / 'labels' / Path(name).with_suffix('.png')
        write_image(path, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
        seen, counts = np.unique(labels, return_counts=True)
        share = {
            self.classes.name(i): round(n / labels.size, 6)
            for i, n in zip(seen.tolist(), counts.tolist(), strict=True)
        }
        return dict(labels=str(path.relative_to(self.folder)), share=share)

    def _panoptic(self, name: str, sample) -> dict:
        """COCO's panoptic format: a segment's number is its colour, R + 256 G + 256^2 B."""
        panoptic = label_map(sample.pred_panoptic_seg.sem_seg)
        numbers = np.zeros(panoptic.shape, np.int32)
        segments: list[dict] = []
        for value in np.unique(panoptic).tolist():
            label = value % OFFSET
            if self.classes.knows(label):
                where = panoptic == value
                segments.append(
                    dict(
                        id=len(segments) + 1,
                        category_id=self._numbers.category(label),
                        category=self.classes.name(label),
                        area=int(where.sum()),
                    )
                )
                numbers[where] = len(segments)
        path = self.folder / 'panoptic' / Path(name).with_suffix('.png')
        write_image(path, np.stack([numbers >> 16, numbers >> 8, numbers], -1).astype(np.uint8))
        return dict(
            image_id=self._numbers.image(name, len(self.entries)),
            file_name=str(path.relative_to(self.folder / 'panoptic')),
            segments_info=segments,
        )

    def _detection(self, name: str, sample) -> dict:
        from pycocotools import mask as coco

        found = sample.pred_instances.cpu()
        found = found[found.scores >= self.score_threshold]
        instances = []
        for i in range(len(found)):
            left, top, right, bottom = found.bboxes[i].tolist()
            label = int(found.labels[i])
            entry = dict(
                category=self.classes.name(label),
                category_id=self._numbers.category(label),
                bbox=[left, top, right - left, bottom - top],
                score=float(found.scores[i]),
            )
            if 'masks' in found:
                rle = coco.encode(np.asfortranarray(found.masks[i].numpy().astype(np.uint8)))
                entry['segmentation'] = dict(size=rle['size'], counts=rle['counts'].decode())
            instances.append(entry)
        return dict(image_id=self._numbers.image(name, len(self.entries)), instances=instances)

    def _write_coco(self) -> None:
        found = [
            dict(
                image_id=entry['image_id'],
                **{key: value for key, value in one.items() if key != 'category'},
            )
            for entry in self.entries
            for one in entry['instances']
        ]
        images = [
            dict(id=e['image_id'], file_name=e['image'], width=e['width'], height=e['height'])
            for e in self.entries
        ]
        categories = [
            dict(id=self._numbers.category(i), name=name)
            for i, name in enumerate(self.classes.names or ())
        ]
        _write_json(self.folder / 'coco_results.json', found)
        _write_json(
            self.folder / 'coco_images.json',
            dict(images=images, categories=categories, annotations=[]),
        )


class _Numbers:
    """Numbers of images and categories in COCO's files."""

    def __init__(self, classes: Classes, image_info: str | Path | None):
        self._images = self._categories = None
        if image_info is None:
            return
        try:
            content = json.loads(Path(image_info).read_text())
            self._images = {Path(i['file_name']).name: i['id'] for i in content['images']}
            known = {one['name']: one['id'] for one in content['categories']}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{image_info} is no file of COCO with images and categories '
                f'({type(error).__name__}: {error})'
            ) from error
        missing = [name for name in classes.names or () if name not in known]
        if missing:
            raise UserError(
                f'{image_info} has no category {missing[0]!r}, which is a class of the model; its '
                f'categories are {some(known)}'
            )
        self._categories = [known[name] for name in classes.names or ()]

    def image(self, name: str, number: int) -> int:
        if self._images is None:
            return number + 1
        if Path(name).name not in self._images:
            raise UserError(f'--image-info names no image {Path(name).name}')
        return self._images[Path(name).name]

    def category(self, label: int) -> int:
        return label + 1 if self._categories is None else self._categories[label]


def _write_json(path: Path, content: Sequence | dict) -> None:
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + '\n')
