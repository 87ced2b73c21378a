"""Pictures of what is predicted for a test set, beside the truth."""

import os
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kat_mm.engine.loading import unwrap
from kat_mm.engine.names import Names


class PicturesHook(Hook):
    """Write or show a picture of every test image: truth and prediction, each with a legend.

    For classifiers, segmenters, detectors and panoptic models. A classifier's truth stands below
    its scores.

    Args:
        out_dir: Folder for the pictures. Default: none are written.
        show: Show them in a window, which needs a display. Default: False.
        wait_time: Seconds to show each. Default: 2.
        score_threshold: Least score of an object. Default: 0.3.
    """

    priority = 'LOW'

    def __init__(
        self,
        out_dir: str | None = None,
        show: bool = False,
        wait_time: float = 2.0,
        score_threshold: float = 0.3,
    ):
        self.out_dir, self.show, self.wait_time = out_dir, show, wait_time
        self.score_threshold = score_threshold
        self._names = Names()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=()) -> None:
        from kat_mm.visualization.data_samples import draw_prediction, draw_truth
        from kat_mm.visualization.files import write_image
        from kat_mm.visualization.predictions import Classes, side_by_side

        dataset = runner.test_dataloader.dataset
        classes = Classes.of(dataset.metainfo, getattr(dataset, 'METAINFO', None) or {})
        for i, sample in enumerate(outputs):
            image = _image(runner, data_batch, i, sample)
            predicted = draw_prediction(image, sample, classes, self.score_threshold)
            truth = draw_truth(image, sample, classes)
            pictures = dict(prediction=predicted)
            if truth is not None:
                pictures = dict(truth=truth, **pictures)
            picture = side_by_side(pictures)
            name = os.path.basename(sample.get('img_path') or '') or 'image.png'
            # In the folders of several classes or cities names may be the same.
            stem, suffix = os.path.splitext(name)
            name = self._names.unique(stem) + suffix
            if self.out_dir is not None:
                write_image(Path(self.out_dir) / name, picture[..., ::-1])
            if self.show:
                runner.visualizer.show(picture, name, self.wait_time)


def _image(runner: Runner, batch: dict, index: int, sample) -> np.ndarray:
    """An image of a batch as it was read, or, of data sets without files, as it was prepared."""
    if sample.get('img_path'):
        import mmcv

        return mmcv.imread(sample.img_path, channel_order='rgb')
    image = batch['inputs'][index].permute(1, 2, 0).cpu().numpy().astype(np.uint8)
    preprocessor = unwrap(runner.model).data_preprocessor
    is_bgr = getattr(preprocessor, 'to_rgb', False) or getattr(
        preprocessor, '_channel_conversion', False
    )
    return np.ascontiguousarray(image[..., ::-1]) if is_bgr else image
