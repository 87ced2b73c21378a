from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from torch.utils.data import Dataset

from kat_mm.visualization.files import save_figure


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
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    classes = dataset.metainfo['classes']
    palette = np.array(dataset.metainfo['palette'], dtype=np.uint8)
    colors = np.full((256, 3), 255, dtype=np.uint8)  # ignored labels are white
    colors[: len(palette)] = palette
    columns = ['image', 'truth', *predictions]
    figure = Figure(figsize=(3.2 * len(columns), 2.5 * len(indices) + 0.7), layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    shown = set()
    for row, index, samples in zip(
        axes, indices, zip(*predictions.values(), strict=True), strict=True
    ):
        sample = dataset[index]['data_samples']
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        labels = [sample.gt_sem_seg, *(sample.pred_sem_seg for sample in samples)]
        labels = [label.data.squeeze().numpy() for label in labels]
        shown.update(*(np.unique(label).tolist() for label in labels))
        for axis, picture in zip(row, [image, *(colors[label] for label in labels)], strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.legend(
        handles=[
            Patch(facecolor=colors[i] / 255, edgecolor='gray', label=name)
            for i, name in enumerate(classes)
            if i in shown
        ],
        loc='outside lower center',
        ncols=6,
        frameon=False,
        title=source,
    )
    save_figure(figure, out_file, 100)
