from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from torch.utils.data import Dataset

from kat_mm.visualization.files import save_figure


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
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    classes = dataset.metainfo['classes']
    colors = np.array(dataset.metainfo['palette'])[: len(classes)] / 255
    columns = ['truth', *predictions]
    figure = Figure(figsize=(4 * len(columns), 3.05 * len(indices) + 0.6), layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    for row, index, samples in zip(
        axes, indices, zip(*predictions.values(), strict=True), strict=True
    ):
        info = dataset.get_data_info(index)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        truth = info['instances']
        pictures = [
            [(one['bbox'], one['bbox_label'], _polygons(image, one.get('mask'))) for one in truth]
        ]
        for sample in samples:
            found = sample.pred_instances[sample.pred_instances.scores >= score_threshold]
            masks = found.masks.numpy() if 'masks' in found else [None] * len(found)
            pictures.append(zip(found.bboxes.tolist(), found.labels.tolist(), masks, strict=True))
        for axis, objects in zip(row, pictures, strict=True):
            objects, picture = list(objects), image.astype(float)
            # The largest first, so that what lies on something else is seen.
            masks = [(mask, label) for _, label, mask in objects if mask is not None]
            for mask, label in sorted(masks, key=lambda pair: -pair[0].sum()):
                picture[mask] = 0.45 * image[mask] + 0.55 * 255 * colors[label]
            axis.imshow(picture.astype(np.uint8))
            axis.set_axis_off()
            for (x1, y1, x2, y2), label, _ in objects:
                axis.add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colors[label])
                )
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.legend(
        handles=[
            Patch(color=color, label=name) for color, name in zip(colors, classes, strict=True)
        ],
        loc='outside lower center',
        ncols=6,
        frameon=False,
        title=source,
    )
    save_figure(figure, out_file, 80)


def _polygons(image: np.ndarray, polygons: list | None) -> np.ndarray | None:
    """(H, W) bool mask of COCO's polygons."""
    if not isinstance(polygons, list):
        return None
    mask = np.zeros(image.shape[:2], np.uint8)
    parts = [np.array(one).reshape(-1, 2).round().astype(np.int32) for one in polygons]
    return cv2.fillPoly(mask, parts, 1).astype(bool)
