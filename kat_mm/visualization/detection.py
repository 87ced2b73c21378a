from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from torch.utils.data import Dataset

from kat_mm.visualization.data_samples import shapes_of
from kat_mm.visualization.pages import Panel, save_page
from kat_mm.visualization.predictions import Classes, Shape, fill


def plot_detection(
    predictions: dict[str, Sequence],
    dataset: Dataset,
    indices: Sequence[int],
    out_file: str | Path,
    score_threshold: float = 0.5,
    source: str | None = None,
) -> None:
    """Draw the true objects and those that each model predicts side by side, with a legend.

    Boxes, and masks where there are some.

    Args:
        predictions: Title of the column to what a model predicts for each row, data samples on the
            CPU: see :func:`~kat_mm.visualization.predict.predict`.
        dataset: A data set of mmdet, in test mode.
        indices: Which samples to draw, one row each.
        out_file: Where the picture goes; its ending gives the format.
        score_threshold: Least score of a predicted box. Default: 0.5.
        source: Whose images they are, as their licence wants it shown.
    """
    classes = Classes.of(dataset.metainfo, getattr(dataset, 'METAINFO', None) or {})
    rows, seen = [], set()
    for index, samples in zip(indices, zip(*predictions.values(), strict=True), strict=True):
        info = dataset.get_data_info(index)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        found = {'truth': list(_truth(image, info['instances']))}
        for title, sample in zip(predictions, samples, strict=True):
            confident = sample.pred_instances[sample.pred_instances.scores >= score_threshold]
            found[title] = list(shapes_of(confident))
        rows.append({title: _panel(image, shapes, classes) for title, shapes in found.items()})
        seen.update(shape.label for shapes in found.values() for shape in shapes)
    save_page(rows, sorted(seen), classes, out_file, source)


def _panel(image: np.ndarray, shapes: list[Shape], classes: Classes) -> Panel:
    picture = image.copy()
    # The largest first, so that what lies on something else is seen.
    masks = [shape for shape in shapes if shape.mask is not None]
    for shape in sorted(masks, key=lambda one: -one.mask.sum()):
        fill(picture, shape.mask, classes, shape.label)
    return Panel(picture, [(shape.box, shape.label) for shape in shapes])


def _truth(image: np.ndarray, instances: list[dict]) -> Iterable[Shape]:
    for one in instances:
        mask = _polygons(image, one.get('mask'))
        yield Shape(one['bbox_label'], box=one['bbox'], mask=mask)


def _polygons(image: np.ndarray, polygons: list | None) -> np.ndarray | None:
    """(H, W) bool mask of COCO's polygons."""
    if not isinstance(polygons, list):
        return None
    mask = np.zeros(image.shape[:2], np.uint8)
    parts = [np.array(one).reshape(-1, 2).round().astype(np.int32) for one in polygons]
    return cv2.fillPoly(mask, parts, 1).astype(bool)
