"""What becomes of a file's outputs, in NumPy: label maps, segments, masks."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Numbers of a resized map that exist at a time: 64 MiB in float32.
_CHUNK = 2**24


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponential = np.exp(logits - logits.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Of every number."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


class _Taps(NamedTuple):
    """Which two cells of an axis a pixel lies between, and the share of the second."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, cells: int, length: int, extent: float, align_corners: bool) -> '_Taps':
        if align_corners:
            place = np.arange(length) * ((extent - 1) / max(length - 1, 1))
        else:
            place = (np.arange(length) + 0.5) * (extent / length) - 0.5
        place = place.clip(0, cells - 1)
        low = np.floor(place).astype(int)
        return cls(low, np.minimum(low + 1, cells - 1), (place - low).astype(np.float32))

    def mix(self, values: np.ndarray, axis: int, part: slice = slice(None)) -> np.ndarray:
        shape = [1] * values.ndim
        shape[axis] = -1
        share = self.share[part].reshape(shape)
        return values.take(self.low[part], axis) * (1 - share) + (
            values.take(self.high[part], axis) * share
        )


def resized_rows(
    maps: np.ndarray,
    size: tuple[int, int],
    extent: Sequence[float] | None = None,
    align_corners: bool = False,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Maps resized bilinearly, as PyTorch's interpolate, a few rows at a time.

    Args:
        maps: (C, h, w).
        size: (H, W).
        extent: How many cells of the maps the image covers, from the top left. Default: None, all.
        align_corners: As of PyTorch. Default: False.

    Yields:
        Which rows, and their values (C, rows, W).
    """
    rows, columns = (
        _Taps.of(cells, length, covered, align_corners)
        for cells, length, covered in zip(
            maps.shape[1:], size, extent or maps.shape[1:], strict=True
        )
    )
    step = max(1, _CHUNK // max(1, len(maps) * size[1]))
    for start in range(0, size[0], step):
        part = slice(start, min(start + step, size[0]))
        yield part, columns.mix(rows.mix(maps, 1, part), 2)


def segment(
    logits: np.ndarray,
    size: tuple[int, int],
    align_corners: bool = False,
    threshold: float | None = None,
) -> np.ndarray:
    """The best class of each pixel.

    Args:
        logits: (classes, h, w).
        size: (H, W) of the image.
        align_corners: Of the resize. Default: False.
        threshold: Of the probability of a single class, label 1. Default: None, the best of many.

    Returns:
        (H, W), uint8, or int32 where there are more than 256 classes.
    """
    labels: np.ndarray = np.empty(size, _label_type(len(logits)))
    for part, values in resized_rows(logits, size, align_corners=align_corners):
        if threshold is None:
            labels[part] = values.argmax(0)
        else:
            labels[part] = sigmoid(values[0]) > threshold
    return labels


def segment_by_queries(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    size: tuple[int, int],
    used: tuple[int, int],
    stride: float,
) -> np.ndarray:
    """The best class of each pixel, by queries' classes and masks, as mmseg's Mask2FormerHead.

    Args:
        class_logits: (Q, classes + 1), the last for no object.
        mask_logits: (Q, h, w).
        size: (H, W) of the image.
        used: (H', W') of what the file saw of it.
        stride: Pixels of the file's input to a cell of the masks.

    Returns:
        (H, W), as of :func:`segment`.
    """
    classes = softmax(class_logits)[:, :-1]
    extent = tuple(math.ceil(side / stride) for side in used)
    labels: np.ndarray = np.empty(size, _label_type(classes.shape[1]))
    for part, values in resized_rows(mask_logits, size, extent):
        labels[part] = np.tensordot(classes, sigmoid(values), (0, 0)).argmax(0)
    return labels


def _label_type(classes: int) -> type:
    return np.uint8 if classes <= 256 else np.int32


def find_segments(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    size: tuple[int, int],
    used: tuple[int, int],
    stride: float,
    num_things: int,
    object_threshold: float,
    overlap_threshold: float,
    filter_low_score: bool,
    **_,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Panoptic segments by queries' classes and masks, as mmdet's MaskFormerFusionHead.

    Args:
        class_logits, mask_logits, size, used, stride: As of :func:`segment_by_queries`.
        num_things: Classes from here on are stuff, of which there is one segment each.
        object_threshold: Smallest probability of a query's class.
        overlap_threshold: Smallest share of a query's mask that no other query takes.
        filter_low_score: Leave out pixels where the mask's probability is below 0.5.

    Returns:
        The number of each pixel's segment (H, W), int32, -1 for none; and of the segments the
        labels (N,) and scores (N,).
    """
    scores = softmax(class_logits)
    labels = scores.argmax(1)
    kept = (labels != scores.shape[1] - 1) & (scores.max(1) > object_threshold)
    labels, scores, masks = labels[kept], scores.max(1)[kept], mask_logits[kept]
    segments = np.full(size, -1, np.int32)
    if not len(labels):
        return segments, labels, scores
    winner, inside = np.empty(size, np.int32), np.empty(size, bool)
    area = np.zeros(len(labels))
    for part, values in resized_rows(masks, size, [side / stride for side in used]):
        probabilities = sigmoid(values)
        winner[part] = (scores[:, None, None] * probabilities).argmax(0)
        likely = probabilities >= 0.5
        area += likely.sum((1, 2))
        inside[part] = np.take_along_axis(likely, winner[part][None], 0)[0]
    won = np.bincount(winner.ravel(), minlength=len(labels))
    place: dict[int, int] = {}  # of the segments of stuff
    found_labels: list[int] = []
    found_scores: list[float] = []
    for query, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if not won[query] or not area[query] or won[query] / area[query] < overlap_threshold:
            continue
        number = place.get(label)
        if number is None:
            number = len(found_labels)
            found_labels.append(label)
            found_scores.append(score)
            if label >= num_things:
                place[label] = number
        mask = winner == query
        segments[mask & inside if filter_low_score else mask] = number
    return segments, np.array(found_labels, int), np.array(found_scores, np.float32)


def find_instances(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    size: tuple[int, int],
    used: tuple[int, int],
    stride: float,
    num_things: int,
    max_per_image: int,
    score_threshold: float = 0.0,
    **_,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Objects by queries' classes and masks, best first, as mmdet's MaskFormerFusionHead.

    Args:
        class_logits, mask_logits, size, used, stride: As of :func:`segment_by_queries`.
        num_things: Classes from here on are left out.
        max_per_image: The most that are looked at.
        score_threshold: Those below are left out. Default: 0.

    Returns:
        Boxes (N, 4), corners in pixels; scores (N,), probability of the class times the mean one of
        the mask; labels (N,); masks (N, H, W), bool.
    """
    classes = softmax(class_logits)[:, :-1]
    best = np.argsort(-classes.ravel(), kind='stable')[:max_per_image]
    found = []
    for place in best:
        query, label = divmod(int(place), classes.shape[1])
        # The mean probability is at most 1.
        if label >= num_things or classes[query, label] < score_threshold:
            continue
        mask, inside, total = np.empty(size, bool), 0, 0.0
        one = mask_logits[query : query + 1]
        for part, values in resized_rows(one, size, [side / stride for side in used]):
            mask[part] = positive = values[0] > 0
            total += sigmoid(values[0][positive]).sum(dtype=np.float64)
            inside += positive.sum()
        score = classes[query, label] * total / (inside + 1e-6)
        if score >= score_threshold:
            found.append((_box(mask), score, label, mask))
    found.sort(key=lambda item: -item[1])
    boxes, scores, labels, masks = zip(*found, strict=True) if found else ([], [], [], [])
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, int),
        np.array(masks, bool).reshape(-1, *size),
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Corners around a mask, zeros where it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Masks over boxes to masks over the image, as mmdet's ``_do_paste_mask``.

    Args:
        masks: Probabilities (N, h, w).
        boxes: (N, 4), corners in pixels.
        size: (H, W) of the image.
        threshold: What is more likely than this is of the object. Default: 0.5.

    Returns:
        (N, H, W), bool.
    """
    pasted = np.zeros((len(masks), *size), bool)
    for target, mask, (left, top, right, bottom) in zip(pasted, masks, boxes, strict=True):
        rows = _weights(size[0], top, bottom, mask.shape[0])
        columns = _weights(size[1], left, right, mask.shape[1])
        target[:] = rows @ mask @ columns.T >= threshold
    return pasted


def _weights(length: int, begin: float, end: float, cells: int) -> np.ndarray:
    """(length, cells): how pixels along an axis mix the cells of a mask, zero outside of it."""
    place = (np.arange(length) + 0.5 - begin) / max(end - begin, 1e-6) * cells - 0.5
    return np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0).astype(np.float32)
