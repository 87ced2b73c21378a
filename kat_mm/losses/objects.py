"""The objects that a batch is to teach, all images at once.

mmdet looks for the regions of a label map image by image and class by class, and lets the host wait
for each answer. Here the classes of all maps reach the host as one table, beside the forward pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from kat_mm.transfer import Receive, send, send_joined


class Objects(NamedTuple):
    """The objects of a batch, image after image."""

    labels: Tensor
    """(G,) classes."""
    masks: Tensor
    """(G, 1, H, W) float32, 0 or 1."""
    counts: list[int]
    """Objects of each image."""
    image: Tensor
    """(G,) the image of each."""
    place: Tensor
    """(G,) which of its image's objects each is."""

    @classmethod
    def of(cls, instances: Sequence[InstanceData]) -> 'Objects':
        """mmdet's instances of each image, whose masks have one size, (n, H, W)."""
        counts = [len(one) for one in instances]
        labels = torch.cat([one.labels for one in instances])
        where = [(i, j) for i, count in enumerate(counts) for j in range(count)]
        image, place = send(where, torch.long, labels.device).view(-1, 2).unbind(1)
        masks = torch.cat([one.masks for one in instances]).float()[:, None]
        return cls(labels, masks, counts, image, place)

    def by_image(self, values: Tensor) -> Tensor:
        """(G, ...) to (B, most objects of an image, ...), with zeros where there is none."""
        padded = values.new_zeros(len(self.counts), max(self.counts), *values.shape[1:])
        padded[self.image, self.place] = values
        return padded


def things_of(instances: Sequence[InstanceData]) -> tuple[Tensor, Tensor]:
    """Labels (G,) and masks (G, H, W), bool, of what a batch counts; masks come from the host."""
    labels = torch.cat([one.labels for one in instances])
    masks = [torch.from_numpy(one.masks.to_ndarray()) for one in instances]
    return labels, send_joined(masks, labels.device) != 0


class Regions:
    """Regions of one class each in label maps, to be asked for behind the forward pass.

    Args:
        maps: (B, H, W) labels; those not between ``first`` and ``last`` are no region's.
        first, last: Least and greatest class.
        ignored: Of those, one that :meth:`images_with_others` does not count. Default: none.
    """

    def __init__(self, maps: Tensor, first: int, last: int, ignored: int | None = None):
        self.maps, self._first = maps, first
        self._count = last - first + 1
        place = maps.flatten(1).long() - first
        inside = (place >= 0) & (place < self._count)
        place = torch.where(inside, place, self._count)
        if ignored is not None:
            place.masked_fill_(maps.flatten(1) == ignored, self._count + 1)
        table = maps.new_zeros(len(maps), self._count + 2, dtype=torch.uint8)
        self._table = Receive(table.scatter_(1, place, 1))

    def images_with_others(self) -> list[int]:
        """Images with a label that is neither a class nor ignored."""
        return np.flatnonzero(self._table.get()[:, self._count]).tolist()

    def found(self) -> tuple[list[int], Tensor, Tensor]:
        """Image, label and mask (H, W) of each region, image after image."""
        images, labels = np.nonzero(self._table.get()[:, : self._count].numpy())
        where = send(np.stack([images, labels + self._first]), torch.long, self.maps.device)
        return images.tolist(), where[1], self.maps[where[0]] == where[1, :, None, None]


def by_image(
    images: Sequence[int], labels: Tensor, masks: Tensor, batch_size: int
) -> list[InstanceData]:
    """Objects of any order as mmdet's instances of each image."""
    order = sorted(range(len(images)), key=images.__getitem__)
    if order != list(range(len(images))):
        index = send(order, torch.long, labels.device)
        labels, masks = labels[index], masks[index]
    counts = [images.count(image) for image in range(batch_size)]
    return [
        InstanceData(labels=own, masks=mask)
        for own, mask in zip(labels.split(counts), masks.split(counts), strict=True)
    ]
