from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset

from kat_mm.visualization.files import save_figure


@torch.no_grad()
def plot_segmentation(
    runners: dict[str, Runner], dataset: Dataset, indices: Sequence[int], out_file: str | Path
) -> None:
    """Draw image, truth and the prediction of each model side by side, with a legend.

    Args:
        runners: Title of the column to the runner whose model predicts.
        dataset: A data set of mmseg, in test mode.
        indices: Which samples to draw, one row each.
        out_file: Where the picture goes; its ending gives the format.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    classes = dataset.metainfo['classes']
    palette = np.array(dataset.metainfo['palette'], dtype=np.uint8)
    colors = np.full((256, 3), 255, dtype=np.uint8)  # ignored labels are white
    colors[: len(palette)] = palette
    columns = ['image', 'truth', *runners]
    figure = Figure(figsize=(3.2 * len(columns), 2.5 * len(indices) + 0.7), layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    shown = set()
    for row, index in zip(axes, indices, strict=True):
        data = pseudo_collate([dataset[index]])
        samples = [runner.model.eval().test_step(data)[0] for runner in runners.values()]
        image = mmcv.imread(samples[0].img_path, channel_order='rgb')
        labels = [samples[0].gt_sem_seg, *(sample.pred_sem_seg for sample in samples)]
        labels = [label.data.squeeze().cpu().numpy() for label in labels]
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
    )
    save_figure(figure, out_file, 100)
