"""A data set as a model sees it: pictures of augmented samples, and how often each class occurs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import Dataset

from kat_mm.datasets import check_loading
from kat_mm.errors import UserError, config_errors
from kat_mm.visualization.data_samples import draw_truth, label_map, true_shapes
from kat_mm.visualization.predictions import Classes, draw_title


class Sample(NamedTuple):
    """An image (H, W, 3), RGB, uint8, and its truth, a data sample of the task's library."""

    image: np.ndarray
    truth: object


def build_dataset(cfg: Config, split: str) -> Dataset:
    """The data set of a split: 'train', 'val' or 'test'.

    Raises:
        UserError: The config has none, or it cannot be built.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise UserError(f'the config has no {split}_dataloader')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_loading(loader.dataset)
    with config_errors():
        return DATASETS.build(loader.dataset)


def samples(dataset: Dataset, indices: Sequence[int], is_bgr: bool) -> Iterator[Sample]:
    """Samples as they leave the pipeline, before normalisation and whatever a batch is put to.

    Of images of other channels than three the first three are shown, or the first, as grey.

    Args:
        dataset: It gives what OpenMMLab's ``Pack...Inputs`` makes.
        indices: Which.
        is_bgr: Whether its images are BGR.
    """
    for index in indices:
        found = dataset[index]
        image = found['inputs'].permute(1, 2, 0).numpy()
        image = image[..., :1].repeat(3, axis=2) if image.shape[2] < 3 else image[..., :3]
        image = np.ascontiguousarray(image[..., ::-1] if is_bgr else image)
        yield Sample(image.clip(0, 255).astype(np.uint8), found['data_samples'])


def draw_sample(sample: Sample, classes: Classes) -> np.ndarray:
    """An augmented image with its truth, RGB: label map, objects, or the class as its title."""
    picture = draw_truth(sample.image, sample.truth, classes)
    if picture is not None:
        return picture
    label = sample.truth.gt_label.flatten().tolist()
    return draw_title(sample.image, ', '.join(classes.name(i) for i in label))


class Statistics:
    """How often classes occur in samples.

    Attributes:
        images: Label to the number of images that show it.
        amounts: Label to the number of its objects or segments, or of pixels of a label map.
        count: Number of images.
    """

    def __init__(self):
        self.images: dict[int, int] = {}
        self.amounts: dict[int, int] = {}
        self.count = 0

    def add(self, truth) -> None:
        """Count a data sample."""
        if 'gt_label' in truth:
            found = truth.gt_label.numpy()
        elif (shapes := true_shapes(truth)) is not None:
            found = np.array([shape.label for shape in shapes], int)
        else:
            found = label_map(truth.gt_sem_seg.data)
        labels, amounts = np.unique(found, return_counts=True)
        self.count += 1
        for label, amount in zip(labels.tolist(), amounts.tolist(), strict=True):
            self.images[label] = self.images.get(label, 0) + 1
            self.amounts[label] = self.amounts.get(label, 0) + amount

    def rows(self, classes: Classes) -> list[dict]:
        """A row for each class, also for those that never occur, and for what is unlabelled."""
        named = range(len(classes.names or ()))
        total = sum(self.amounts.values()) or 1
        return [
            dict(
                label=label,
                name=classes.name(label),
                images=self.images.get(label, 0),
                amount=self.amounts.get(label, 0),
                share=self.amounts.get(label, 0) / total,
            )
            for label in dict.fromkeys([*named, *sorted(self.images)])
        ]
