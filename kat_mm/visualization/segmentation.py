from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from torch.utils.data import Dataset

from kat_mm.visualization.data_samples import label_map
from kat_mm.visualization.pages import Panel, save_page
from kat_mm.visualization.predictions import Classes, fill


def plot_segmentation(
    predictions: dict[str, Sequence],
    dataset: Dataset,
    indices: Sequence[int],
    out_file: str | Path,
    source: str | None = None,
) -> None:
    """Draw image, truth and the prediction of each model side by side, with a legend.

    Args:
        predictions: Title of the column to what a model predicts for each row, data samples on the
            CPU: see :func:`~kat_mm.visualization.predict.predict`.
        dataset: A data set of mmseg, in test mode.
        indices: Which samples to draw, one row each.
        out_file: Where the picture goes; its ending gives the format.
        source: Whose images they are, as their licence wants it shown.
    """
    classes = Classes.of(dataset.metainfo, {})
    rows, seen = [], set()
    for index, samples in zip(indices, zip(*predictions.values(), strict=True), strict=True):
        truth = dataset[index]['data_samples']
        row = dict(image=Panel(mmcv.imread(truth.img_path, channel_order='rgb')))
        maps = [truth.gt_sem_seg, *(sample.pred_sem_seg for sample in samples)]
        for title, found in zip(('truth', *predictions), maps, strict=True):
            labels = label_map(found.data)
            row[title] = Panel(_in_colors(labels, classes))
            seen.update(np.unique(labels).tolist())
        rows.append(row)
    save_page(rows, sorted(seen), classes, out_file, source)


def _in_colors(labels: np.ndarray, classes: Classes) -> np.ndarray:
    picture = np.full((*labels.shape, 3), 255, np.uint8)
    for label in np.unique(labels).tolist():
        fill(picture, labels == label, classes, label, opacity=1)
    return picture
