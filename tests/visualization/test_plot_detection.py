from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData

from kat_mm.visualization.detection import plot_detection

GREEN, BLUE = (0, 200, 0), (0, 0, 200)


class Images:
    """A data set of mmdet: a white image with one box of the first class."""

    metainfo = dict(classes=('cat', 'dog'), palette=[GREEN, BLUE])

    def __init__(self, path):
        self.path = str(path)

    def __getitem__(self, index):
        return dict(index=index)

    def get_data_info(self, index):
        return dict(img_path=self.path, instances=[dict(bbox=[10, 10, 40, 40], bbox_label=0)])


def prediction(**more):
    """A dog with a score of 0.9, and a cat with 0.3."""
    instances = InstanceData(
        bboxes=torch.tensor([[50.0, 20.0, 70.0, 50.0], [5.0, 5.0, 30.0, 30.0]]),
        labels=torch.tensor([1, 0]),
        scores=torch.tensor([0.9, 0.3]),
        **more,
    )
    return SimpleNamespace(pred_instances=instances)


def has_color(picture, color):
    return (np.abs(picture.astype(int) - color).max(axis=2) < 60).any()


def test_truth_and_confident_predictions_are_drawn_in_the_colours_of_their_classes(tmp_path):
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), np.full((60, 80, 3), 255, np.uint8))
    found = {'KAT': [prediction(), prediction()]}
    plot_detection(found, Images(image), [0, 1], tmp_path / 'page.png')
    page = cv2.imread(str(tmp_path / 'page.png'))[..., ::-1]
    page = page[: int(0.85 * len(page))]  # without the legend
    truth, predicted = np.array_split(page, 2, axis=1)
    assert has_color(truth, GREEN) and not has_color(truth, BLUE)
    assert has_color(predicted, BLUE) and not has_color(predicted, GREEN)


def test_masks_are_drawn_where_there_are_some(tmp_path):
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), np.full((60, 80, 3), 255, np.uint8))

    class Masks(Images):
        def get_data_info(self, index):
            polygon = [10, 10, 40, 10, 40, 40, 10, 40]
            instance = dict(bbox=[10, 10, 40, 40], bbox_label=0, mask=[polygon])
            return dict(super().get_data_info(index), instances=[instance])

    masked = prediction(masks=torch.ones(2, 60, 80, dtype=torch.bool))
    parts = []
    for data, sample in ((Images, prediction()), (Masks, masked)):
        plot_detection({'KAT': [sample]}, data(image), [0], tmp_path / 'page.png')
        page = cv2.imread(str(tmp_path / 'page.png'))[..., ::-1]
        parts.append(np.array_split(page[: int(0.85 * len(page))], 2, axis=1))
    for plain, masked in zip(*parts, strict=True):
        tinted = (masked.max(axis=2).astype(int) - masked.min(axis=2)) > 80
        outlined = (plain.max(axis=2).astype(int) - plain.min(axis=2)) > 80
        assert tinted.mean() > outlined.mean() + 0.05
