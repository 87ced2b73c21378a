"""Masks of mmdet's detectors: to their size before the heads, and to the image behind them."""

import math

import numpy as np
import torch
from mmdet.models import DetDataPreprocessor, FCNMaskHead
from mmdet.structures.mask import BitmapMasks
from torch import Tensor

from kat_mm import transfer

from .images import sent

_MOST_BYTES = 1 << 30  # of pasted masks in float32 at a time, as in mmdet


class PaddedMasks(BitmapMasks):
    """Masks that are padded in one copy, and not at all where they have their size."""

    @classmethod
    def of(cls, masks: BitmapMasks) -> 'PaddedMasks':
        return cls._of(masks.masks, masks.height, masks.width)

    @classmethod
    def _of(cls, masks: np.ndarray, height: int, width: int) -> 'PaddedMasks':
        new = cls.__new__(cls)  # the constructor would copy them
        new.masks, new.height, new.width = masks, height, width
        return new

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'PaddedMasks':
        """As of its base."""
        height, width = out_shape
        if (self.height, self.width) == (height, width):
            return self
        padded = np.full((len(self.masks), height, width), pad_val, self.masks.dtype)
        padded[:, : self.height, : self.width] = self.masks
        return self._of(padded, height, width)


class FastDetDataPreprocessor(DetDataPreprocessor):
    """The same as its base, with fewer copies of masks, and batches that nobody waits for."""

    def forward(self, data: dict, training: bool = False) -> dict:
        """As of its base."""
        rest, data = sent(self, data)
        return super(FastDetDataPreprocessor, rest).forward(data, training)

    def pad_gt_masks(self, batch_data_samples: list) -> None:
        """As of its base."""
        for sample in batch_data_samples:
            masks = sample.gt_instances.get('masks')
            if type(masks) is BitmapMasks:
                sample.gt_instances.masks = PaddedMasks.of(masks)
        super().pad_gt_masks(batch_data_samples)


class FastFCNMaskHead(FCNMaskHead):
    """The same as its base; on a GPU a mask is pasted by two small products."""

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: dict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        threshold = rcnn_test_cfg.mask_thr_binary
        if not bboxes.is_cuda or threshold < 0 or activate_map:
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        factors = img_meta['scale_factor']
        height, width = img_meta['ori_shape'][:2]
        if rescale:  # the boxes themselves too, which the caller holds
            bboxes /= transfer.send(tuple(factors) * 2, bboxes.dtype, bboxes.device)
        else:
            height, width = round(height * factors[1]), round(width * factors[0])
        masks = mask_preds.sigmoid()
        if self.class_agnostic:
            masks = masks[:, 0]
        else:
            masks = masks[torch.arange(len(masks), device=masks.device), labels]
        chunks = math.ceil(len(masks) * height * width * 4 / _MOST_BYTES)
        pasted = [
            paste(*chunk, height, width) >= threshold
            for chunk in zip(masks.chunk(chunks), bboxes.chunk(chunks), strict=True)
        ]
        return torch.cat(pasted) if len(pasted) > 1 else pasted[0]


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks at the places of their boxes, interpolated linearly, zero elsewhere.

    A bilinear resize is a product with a matrix from each side, which waits for nothing.

    Args:
        masks: (N, h, w).
        boxes: (N, 4) in pixels of the image.
        height: Of the image.
        width: Of the image.

    Returns:
        (N, height, width), float32 at least.
    """
    dtype = torch.promote_types(masks.dtype, torch.float32)
    masks, boxes = masks.to(dtype), boxes.to(dtype)
    with torch.autocast(masks.device.type, enabled=False):
        rows = _weights(boxes[:, 1], boxes[:, 3], height, masks.shape[1])
        columns = _weights(boxes[:, 0], boxes[:, 2], width, masks.shape[2])
        return rows @ masks @ columns.mT


def _weights(low: Tensor, high: Tensor, size: int, taps: int) -> Tensor:
    """Of each of ``taps`` pixels of a mask in each of ``size`` of an image, (N, size, taps)."""
    place = torch.arange(size, dtype=low.dtype, device=low.device) + 0.5
    place = (place - low[:, None]) / (high - low)[:, None] * 2 - 1
    place = torch.where(place.isinf(), 0, place)  # as in mmdet, of a box without extent
    place = ((place + 1) * taps - 1) / 2
    tap = torch.arange(taps, dtype=low.dtype, device=low.device)
    return (1 - (place[:, :, None] - tap).abs()).clamp_(min=0)
