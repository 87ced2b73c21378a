"""Losses of label maps by queries, as of mmseg's Mask2Former, without its waits for the GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .mask2former import FastMask2FormerHead
from .objects import Regions, by_image


class LabelMapLosses(FastMask2FormerHead):
    """In front of mmseg's ``Mask2FormerHead`` among the bases of a head: each class is a mask."""

    def loss(  # type: ignore[override]  # mmseg's, where mmdet's has no train_cfg
        self, x: Sequence[Tensor], batch_data_samples: list, train_cfg: dict
    ) -> dict[str, Tensor]:
        """Losses of data samples with a label map, ``gt_sem_seg``.

        Raises:
            ValueError: A map has a label that is no class and not ``ignore_index``.
        """
        maps = torch.cat([sample.gt_sem_seg.data for sample in batch_data_samples])
        regions = Regions(maps, 0, self.num_classes - 1, self.ignore_index)
        classes, masks = self.predictions(x, batch_data_samples)
        metas = [sample.metainfo for sample in batch_data_samples]
        for image in regions.images_with_others():
            raise ValueError(
                f'the label map of image {metas[image].get("img_path", "")} has a label that is '
                f'neither one of num_classes={self.num_classes} classes, 0 to '
                f'{self.num_classes - 1}, nor ignore_index={self.ignore_index}'
            )
        return self.loss_by_feat(classes, masks, by_image(*regions.found(), len(maps)), metas)
