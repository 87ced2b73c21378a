"""An exported model, called with an image as it is."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from kat_mm.errors import UserError

from .description import Description
from .postprocessing import (
    find_instances,
    find_segments,
    paste_masks,
    segment,
    segment_by_queries,
    softmax,
)
from .sessions import Session, open_session

_RESAMPLING = dict(nearest=0, bilinear=2, bicubic=3)


def load(
    path: str | os.PathLike, threads: int | None = None, allow_pickle: bool = False
) -> 'ExportedModel':
    """Open an exported file and the JSON file beside it.

    Args:
        path: What ``tools/export.py`` wrote: .onnx, .xml or .pt2.
        threads: Number of threads. Default: None, the runtime's own.
        allow_pickle: Open .pt2 too, of which PyTorch runs code as it is read: for files whose
            source is trusted. Default: False.

    Raises:
        UserError: A file is missing or damaged, the runtime is not installed, or it is .pt2 and is
            not trusted.
    """
    path = Path(path)
    description = Description.read(path)
    return ExportedModel(description, open_session(path, threads, allow_pickle))


@dataclasses.dataclass
class Prediction:
    """What a model says of one image; fields of other tasks are None.

    ``scores`` are (classes,) of a classifier, (N,) of a detector. ``labels`` are class numbers: one
    of a classifier, (H, W) of a segmenter, (N,) of a detector. ``boxes`` are (N, 4), corners in
    pixels of the image, and ``masks`` (N, H, W), bool. ``segments`` of a panoptic model are the
    number of each pixel's segment (H, W), -1 for none, of which ``labels`` and ``scores`` are
    (N,). ``maps`` are features.
    """

    scores: np.ndarray | None = None
    labels: np.ndarray | int | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    segments: np.ndarray | None = None
    maps: list[np.ndarray] | None = None
    names: list[str] | str | None = None


class ExportedModel:
    """An exported file with its pre- and postprocessing.

    Args:
        description: What stands beside the file.
        session: Arrays to arrays.
    """

    def __init__(self, description: Description, session: Session):
        self.description = description
        self.session = session

    def __call__(
        self, image: 'np.ndarray | str | os.PathLike', score_threshold: float = 0.3
    ) -> Prediction:
        """Predict for one image.

        Args:
            image: A file, a Pillow image, or an array (H, W, 3) of RGB pixels, uint8.
            score_threshold: Of objects that are returned. Default: 0.3.

        Raises:
            UserError: It is no image, or the file does not compute what is said beside it.
        """
        pixels = read_image(image)
        try:
            return self._predict(pixels, score_threshold)
        except UserError:
            raise
        except Exception as error:
            name = self.description.file
            raise UserError(
                f'{name} does not compute what {name}.json describes ({type(error).__name__}: '
                f'{str(error).splitlines()[0] if str(error) else ""}); export the model again'
            ) from error

    def _predict(self, pixels: np.ndarray, score_threshold: float) -> Prediction:
        array, scale, used = self.fit(pixels)
        batch = array[None]
        if self.description.batch not in (None, 1):
            batch = np.repeat(batch, self.description.batch, axis=0)
        sizes = np.tile(np.array([used], np.float32), (len(batch), 1))
        outputs = self.run(batch, sizes)
        return self._read(outputs, pixels.shape[:2], scale, used, score_threshold)

    def run(self, batch: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """The file's outputs for a batch (B, 3, H, W) as the file takes it.

        Args:
            batch: From :meth:`prepare`.
            sizes: (B, 2), height and width before padding, for detectors.

        Raises:
            UserError: The file takes no batch of this shape.
        """
        self._check(batch.shape)
        arrays = [batch] if len(self.description.inputs) == 1 else [batch, sizes]
        return self.session(*arrays)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """RGB pixels (H, W, 3), uint8, to what the file takes of them, (3, H, W)."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        described = self.description
        if described.preprocessing:
            return planes
        if described.channel_order == 'bgr':
            planes = planes[::-1]
        mean, std = (
            np.array(x, np.float32)[:, None, None] for x in (described.mean, described.std)
        )
        return ((planes.astype(np.float32) - mean) / std).astype(np.float32)

    def _check(self, shape: tuple[int, ...]) -> None:
        described = self.description
        batch, _, *size = shape
        if described.batch not in (None, batch):
            raise UserError(
                f'{described.file} takes {described.batch} images at once, and was given {batch}; '
                'export it without --batch'
            )
        if described.size and list(described.size) != size:
            raise UserError(
                f'{described.file} takes images of {described.size[0]} x {described.size[1]} '
                f'(height x width), and was given {size[0]} x {size[1]}; export it with --size or '
                '--dynamic-size'
            )
        if any(side % described.multiple for side in size):
            raise UserError(
                f'{described.file} takes sides that are multiples of {described.multiple}, and '
                f'was given {size[0]} x {size[1]}; pad the image'
            )

    def fit(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
        """RGB pixels (H, W, 3), uint8, of any size to what the file takes.

        Returns:
            The array (3, H', W'), its scale (y, x), and the part (h, w) that is no padding.
        """
        described, size = self.description, pixels.shape[:2]
        rule = described.resize
        if rule['mode'] == 'crop':  # of classifiers: the shorter side, then the middle
            factor = rule['short_side'] / min(size)
            scaled = [max(round(side * factor), 1) for side in size]
            pixels = _crop(resize_image(pixels, scaled, rule['interpolation']), described.size)
        elif described.size and rule['mode'] == 'stretch':
            pixels = resize_image(pixels, described.size, 'bilinear')
        elif described.size:  # fit
            factor = min(to / side for to, side in zip(described.size, size, strict=True))
            pixels = resize_image(pixels, [max(round(s * factor), 1) for s in size], 'bilinear')
        used = pixels.shape[:2]
        scale = (used[0] / size[0], used[1] / size[1])
        return self._pad(self.prepare(pixels)), scale, used

    def _pad(self, array: np.ndarray) -> np.ndarray:
        """What is 0 behind the normalisation, but for rounding, at the right and the bottom."""
        described = self.description
        multiple = described.multiple
        size = described.size or [-(-side // multiple) * multiple for side in array.shape[1:]]
        mean = described.mean if described.channel_order == 'rgb' else described.mean[::-1]
        fill = np.round(mean) if described.preprocessing else np.zeros(3)
        padded = np.empty((3, *size), array.dtype)
        padded[:] = fill[:, None, None]
        padded[:, : array.shape[1], : array.shape[2]] = array
        return padded

    def _read(self, outputs, size, scale, used, score_threshold: float) -> Prediction:
        task, classes = self.description.task, self.description.classes
        if task == 'features':
            return Prediction(maps=[output[0] for output in outputs])
        if task == 'classification':
            scores = softmax(outputs[0][0])
            label = int(scores.argmax())
            return Prediction(scores, label, names=classes[label] if classes else None)
        options = self.description.postprocessing
        if task == 'segmentation' and len(outputs) == 1:
            return Prediction(labels=segment(outputs[0][0], size, **options))
        if 'mask_logits' in self.description.outputs:
            return self._read_queries(outputs, size, used, score_threshold)
        if task == 'segmentation':
            return Prediction(labels=segment(outputs[0][0], size, **options))
        boxes, scores, labels = (output[0] for output in outputs[:3])
        chosen = (scores >= score_threshold) & (scores > 0)
        boxes = boxes[chosen] / np.array([scale[1], scale[0]] * 2, np.float32)
        labels, scores = labels[chosen], scores[chosen]
        masks = None
        if len(outputs) > 3:
            masks = paste_masks(outputs[3][0][chosen], boxes, size, options['mask_threshold'])
        return Prediction(scores, labels, boxes, masks, names=self._names(labels))

    def _read_queries(self, outputs, size, used, score_threshold: float) -> Prediction:
        task, options = self.description.task, self.description.postprocessing
        queries = outputs[0][0], outputs[1][0], size, used
        if task == 'segmentation':
            return Prediction(labels=segment_by_queries(*queries, options['stride']))
        if task == 'panoptic':
            segments, labels, scores = find_segments(*queries, **options)
            return Prediction(scores, labels, segments=segments, names=self._names(labels))
        boxes, scores, labels, masks = find_instances(
            *queries, score_threshold=score_threshold, **options
        )
        return Prediction(scores, labels, boxes, masks, names=self._names(labels))

    def _names(self, labels: np.ndarray) -> list[str] | None:
        classes = self.description.classes
        return [classes[label] for label in labels] if classes else None


def read_image(image) -> np.ndarray:
    """RGB pixels (H, W, 3), uint8, of a file, a Pillow image or such an array.

    Raises:
        UserError: It is no image.
    """
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f'an array of shape {image.shape} and dtype {image.dtype} is no image; it must be '
                '(height, width, 3), uint8, RGB'
            )
        return image
    if not isinstance(image, Image.Image):
        try:
            opened = Image.open(image)
            opened.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f'{image} is no image that can be read: {error}') from error
        image = opened
    return np.array(ImageOps.exif_transpose(image).convert('RGB'))


def resize_image(pixels: np.ndarray, size, interpolation: str) -> np.ndarray:
    """Pixels (H, W, 3) to another size (H, W)."""
    from PIL import Image

    if tuple(pixels.shape[:2]) == tuple(size):
        return pixels
    height, width = size
    image = Image.fromarray(pixels).resize((width, height), _RESAMPLING[interpolation])
    return np.array(image)


def _crop(pixels: np.ndarray, size: list[int] | None) -> np.ndarray:
    if size is None:
        return pixels
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape[:2], size, strict=True))
    return pixels[max(top, 0) :, max(left, 0) :][: size[0], : size[1]]
