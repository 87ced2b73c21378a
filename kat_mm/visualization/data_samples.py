"""The data samples of mmpretrain, mmseg and mmdet as pictures: what is predicted, and the truth."""

from collections.abc import Iterator

import cv2
import numpy as np
from torch import Tensor

from kat_mm.visualization.predictions import Classes, Shape, draw_labels, draw_scores, draw_shapes

# mmdet numbers the segments of a panoptic map as label + 1000 * object.
OFFSET = 1000


def draw_prediction(
    image: np.ndarray,
    sample,
    classes: Classes,
    score_threshold: float = 0.3,
    legend_rows: int | None = None,
) -> np.ndarray:
    """Draw what a model predicts for an image.

    Args:
        image: (H, W, 3), RGB, uint8: the image whose size the prediction has.
        sample: A library's data sample with a prediction.
        classes: Names and colours.
        score_threshold: Least score of an object. Default: 0.3.
        legend_rows: Rows of the legend, for pictures of one size. Default: as many as it needs.
    """
    if 'pred_score' in sample:
        truth = int(sample.gt_label) if _has_label(sample) else None
        return draw_scores(image, sample.pred_score.float().cpu().numpy(), classes, truth)
    if 'pred_sem_seg' in sample:
        return draw_labels(image, label_map(sample.pred_sem_seg.data), classes, legend_rows)
    if 'pred_panoptic_seg' in sample:
        shapes = segments_of(label_map(sample.pred_panoptic_seg.sem_seg))
    else:
        found = sample.pred_instances
        shapes = shapes_of(found[found.scores >= score_threshold])
    return draw_shapes(image, list(shapes), classes, legend_rows)


def draw_truth(image: np.ndarray, sample, classes: Classes) -> np.ndarray | None:
    """Draw the truth of a data sample that is a label map, segments or objects; None without.

    The truth of a classifier stands in :func:`draw_prediction`'s picture.
    """
    shapes = true_shapes(sample)
    if shapes is not None:
        return draw_shapes(image, [_fitted(shape, image) for shape in shapes], classes)
    if 'gt_sem_seg' in sample:
        return draw_labels(image, label_map(sample.gt_sem_seg.data), classes)
    return None


def true_shapes(sample) -> list[Shape] | None:
    """The objects, or all segments of panoptic data, that are the truth; None where it is neither.

    mmdet's pipelines give the latter as objects and a label map, in which they are too.
    """
    if 'gt_panoptic_seg' in sample:
        return list(segments_of(label_map(sample.gt_panoptic_seg.sem_seg)))
    if 'gt_instances' not in sample:
        return None
    objects = list(shapes_of(sample.gt_instances))
    if 'gt_sem_seg' not in sample:
        return objects
    labels, seen = label_map(sample.gt_sem_seg.sem_seg), {shape.label for shape in objects}
    rest = [label for label in np.unique(labels).tolist() if label not in seen]
    segments = [shape._replace(box=None) for shape in objects]
    return segments + [Shape(label, mask=labels == label) for label in rest]


def _fitted(shape: Shape, image: np.ndarray) -> Shape:
    """A shape in the pixels of the image, where its mask is that of a resized one."""
    if shape.mask is None or shape.mask.shape == image.shape[:2]:
        return shape
    (height, width), (rows, columns) = image.shape[:2], shape.mask.shape
    mask = cv2.resize(shape.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    box = shape.box
    if box is not None:
        box = np.multiply(box, [width / columns, height / rows] * 2).tolist()
    return shape._replace(box=box, mask=mask.astype(bool))


def shapes_of(instances) -> Iterator[Shape]:
    """Objects of mmdet's ``InstanceData``, predicted or true."""
    boxes = instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes).cpu().tolist()
    labels = instances.labels.tolist()
    scores = instances.scores.tolist() if 'scores' in instances else [None] * len(labels)
    masks = [None] * len(labels)
    if 'masks' in instances:
        masks = instances.masks
        masks = masks.cpu().numpy() if isinstance(masks, Tensor) else masks.to_ndarray()
    for label, score, box, mask in zip(labels, scores, boxes, masks, strict=True):
        yield Shape(label, score, box, None if mask is None else mask.astype(bool))


def segments_of(panoptic: np.ndarray) -> Iterator[Shape]:
    """Segments of a panoptic map (H, W) in mmdet's numbers."""
    for number in np.unique(panoptic).tolist():
        yield Shape(number % OFFSET, mask=panoptic == number)


def label_map(data: Tensor) -> np.ndarray:
    """(H, W) of (1, H, W)."""
    return data.squeeze(0).cpu().numpy()


def _has_label(sample) -> bool:
    return 'gt_label' in sample and sample.gt_label.numel() == 1
