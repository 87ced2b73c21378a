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
def plot_detection(
    runners: dict[str, Runner],
    dataset: Dataset,
    indices: Sequence[int],
    out_file: str | Path,
    score_threshold: float = 0.5,
) -> None:
    """Draw the true boxes and those that each model predicts side by side, with a legend.

    Args:
        runners: Title of the column to the runner whose model predicts.
        dataset: A data set of mmdet, in test mode.
        indices: Which samples to draw, one row each.
        out_file: Where the picture goes; its ending gives the format.
        score_threshold: Least score of a predicted box. Default: 0.5.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    classes = dataset.metainfo['classes']
    colors = np.array(dataset.metainfo['palette'])[: len(classes)] / 255
    columns = ['truth', *runners]
    figure = Figure(figsize=(4 * len(columns), 3.05 * len(indices) + 0.6), layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    for row, index in zip(axes, indices, strict=True):
        data = pseudo_collate([dataset[index]])
        samples = [runner.model.eval().test_step(data)[0] for runner in runners.values()]
        image = mmcv.imread(samples[0].img_path, channel_order='rgb')
        truth = dataset.get_data_info(index)['instances']
        pictures = [[(instance['bbox'], instance['bbox_label']) for instance in truth]]
        for sample in samples:
            found = sample.pred_instances[sample.pred_instances.scores >= score_threshold].cpu()
            pictures.append(zip(found.bboxes.tolist(), found.labels.tolist(), strict=True))
        for axis, boxes in zip(row, pictures, strict=True):
            axis.imshow(image)
            axis.set_axis_off()
            for (x1, y1, x2, y2), label in boxes:
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
    )
    save_figure(figure, out_file, 80)
