"""mmdet's RoI head with all images at once, and hardly any waiting."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.models import SingleRoIExtractor, StandardRoIHead
from mmdet.structures.mask import BitmapMasks
from mmdet.structures.mask.mask_target import mask_target
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.modules.utils import _pair

from kat_mm import transfer
from kat_mm.ops import suppress

from . import detection_boxes as boxes_
from .detection_masks import PaddedMasks
from .detection_rpn import Proposals, _tensor, box_loss, is_plain_nms

# Of one image, before suppression, whose work grows with the square of it.
_MOST_CANDIDATES = 10_000


class FastRoIExtractor(SingleRoIExtractor):
    """The same features as its base: every level cuts all RoIs, those of others without a pixel."""

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """As of its base: maps (B, C, H, W) and RoIs (n, 5) to (n, C, *output_size)."""
        if not len(rois) or roi_scale_factor is not None or len(feats) == 1:
            return super().forward(feats, rois, roi_scale_factor)
        rois = rois.type_as(feats[0])
        levels = self.map_roi_levels(rois, len(feats))[:, None]
        nowhere = F.pad(rois[:, :1], [0, 4])
        # A box without area has no samples (sampling_ratio=0, aligned): its features are zero.
        parts = [
            layer(feature, torch.where(levels == level, rois, nowhere))
            for level, (layer, feature) in enumerate(zip(self.roi_layers, feats, strict=True))
        ]
        return sum(parts[1:], parts[0])


class FastRoIHead(StandardRoIHead):
    """The same losses as its base, in fewer launches.

    It waits for the device once, for the numbers of positive samples that the mask head gets, and
    that while the box head computes.
    """

    def loss(self, x: tuple[Tensor], rpn_results_list: Sequence, batch_data_samples: list) -> dict:
        """As of its base."""
        instances = [sample.gt_instances for sample in batch_data_samples]
        masks = _send_masks(instances, x[0].device) if self.with_mask else None
        truths = [_tensor(own.bboxes) for own in instances]
        counts = [len(own) for own in truths]
        truths = boxes_.pad_rows(truths, least=1)
        labels = boxes_.pad_rows([own.labels for own in instances], least=1)
        priors, assigned = self._assign(truths, counts, *_proposals(rpn_results_list))
        samples = boxes_.sample(assigned, self.bbox_sampler)
        num_positive = transfer.Receive(samples.num_positive)
        boxes = boxes_.take(priors, samples.index)
        number = (assigned.gather(1, samples.index) - 1).clamp_(min=0)

        features, losses = self._bbox_losses(x, boxes, samples, truths, labels, number)
        if self.with_mask:
            losses.update(
                self._mask_losses(x, features, boxes, number, labels, num_positive, masks)
            )
        return losses

    def _assign(
        self, truths: Tensor, counts: list[int], boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Priors (B, N, 4), of which the first may be truths, and the truth of each (B, N)."""
        most = truths.shape[1]
        number = torch.arange(1, most + 1, device=boxes.device)
        has_truths = transfer.send([[count] for count in counts], torch.long, boxes.device)
        is_truth = number <= has_truths
        boxes = boxes.to(truths.dtype)
        overlaps = boxes_.overlaps(truths, boxes)
        overlaps.masked_fill_(~(is_truth[:, :, None] & valid[:, None]), -1)
        assigned = boxes_.assign(overlaps, self.bbox_assigner)
        assigned = torch.where(has_truths > 0, assigned, 0).masked_fill_(~valid, -1)
        if not self.bbox_sampler.add_gt_as_proposals:
            return boxes, assigned
        own = torch.where(is_truth, number, -1)
        return torch.cat([truths, boxes], dim=1), torch.cat([own, assigned], dim=1)

    def _bbox_losses(
        self,
        x: tuple[Tensor],
        boxes: Tensor,
        samples: boxes_.Samples,
        truths: Tensor,
        labels: Tensor,
        number: Tensor,
    ) -> tuple[Tensor, dict]:
        """Features of the RoIs, and the losses that ``BBoxHead`` makes of them."""
        head = self.bbox_head
        results = self._bbox_forward(x, _rois(boxes))
        scores, deltas = results['cls_score'], results['bbox_pred']
        is_sample = samples.is_sample.flatten()
        classes = torch.where(samples.is_positive, labels.gather(1, number), head.num_classes)
        weight = is_sample.to(boxes.dtype)
        if self.train_cfg.pos_weight > 0:
            weight = torch.where(samples.is_positive.flatten(), self.train_cfg.pos_weight, weight)
        average = weight.count_nonzero().clamp(min=1) + torch.finfo(torch.float32).eps
        values = F.cross_entropy(scores, classes.flatten(), reduction='none')
        losses = dict(loss_cls=head.loss_cls.loss_weight * (values * weight).sum() / average)
        right = (scores.argmax(dim=1) == classes.flatten()) & is_sample
        count = is_sample.sum()
        losses['acc'] = right.sum()[None] * 100.0 / count.clamp(min=1)

        # Positive samples lie in the first slots.
        most = int(self.bbox_sampler.num * self.bbox_sampler.pos_fraction)
        is_positive, boxes = samples.is_positive[:, :most], boxes[:, :most]
        target = boxes_.take(truths, number[:, :most])
        deltas = deltas.view(*samples.index.shape, -1, 4)[:, :most]
        which = classes[:, :most].clamp(max=deltas.shape[2] - 1)
        deltas = deltas.gather(2, which[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        losses['loss_bbox'] = box_loss(
            head.loss_bbox,
            deltas,
            boxes_.encode(boxes, target, head.bbox_coder),
            is_positive,
            count + torch.finfo(torch.float32).eps,
        )
        return results['bbox_feats'], losses

    def _mask_losses(
        self,
        x: tuple[Tensor],
        features: Tensor,
        boxes: Tensor,
        number: Tensor,
        labels: Tensor,
        num_positive: transfer.Receive,
        masks: 'Tensor | list',
    ) -> dict:
        """The loss of the mask head, of the positive samples alone."""
        counts = num_positive.list()
        own = [boxes[i, :count] for i, count in enumerate(counts)]
        numbers = [number[i, :count] for i, count in enumerate(counts)]
        if self.share_roi_extractor:
            features = features.unflatten(0, boxes.shape[:2])
            features = torch.cat([features[i, :count] for i, count in enumerate(counts)])
            predicted = self._mask_forward(x, pos_inds=slice(None), bbox_feats=features)[
                'mask_preds'
            ]
        else:
            rois = _rois(boxes)
            rois = rois.unflatten(0, boxes.shape[:2])
            rois = torch.cat([rois[i, :count] for i, count in enumerate(counts)])
            predicted = self._mask_forward(x, rois)['mask_preds']
        if not len(predicted):
            return dict(loss_mask=predicted.sum())
        target = _mask_targets(own, numbers, masks, self.train_cfg)
        classes = torch.cat([labels[i, own] for i, own in enumerate(numbers)])
        if self.mask_head.class_agnostic:
            classes = torch.zeros_like(classes)
        return dict(loss_mask=self.mask_head.loss_mask(predicted, target, classes))

    def predict_bbox(
        self,
        x: tuple[Tensor],
        batch_img_metas: list[dict],
        rpn_results_list: Sequence,
        rcnn_test_cfg: dict,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """As of its base; the device is waited for twice, whatever the number of images."""
        if rcnn_test_cfg is None or not is_plain_nms(rcnn_test_cfg.nms):
            return super().predict_bbox(
                x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale
            )
        head = self.bbox_head
        priors, valid = _proposals(rpn_results_list)
        results = self._bbox_forward(x, _rois(priors))
        scores = results['cls_score'].softmax(dim=-1)[:, :-1].unflatten(0, valid.shape)
        deltas = results['bbox_pred'].unflatten(0, valid.shape).unflatten(2, (-1, 4))
        limits = boxes_.limits_of([meta['img_shape'] for meta in batch_img_metas], deltas)
        boxes = boxes_.decode(priors[:, :, None], deltas, head.bbox_coder, limits)
        if rescale:
            factors = [[1 / factor for factor in meta['scale_factor']] for meta in batch_img_metas]
            factors = transfer.send(factors, boxes.dtype, boxes.device).repeat(1, 2)
            boxes = boxes * factors[:, None, None]
        boxes = boxes.expand(-1, -1, scores.shape[2], -1).flatten(1, 2)
        candidates = (scores > rcnn_test_cfg.score_thr) & valid[..., None]
        most = max(candidates.sum(dim=(1, 2)).tolist())  # the first time
        scores, index = torch.where(candidates, scores, -1.0).flatten(1).topk(most, dim=1)
        boxes, labels = boxes_.take(boxes, index), index % head.num_classes
        if most > _MOST_CANDIDATES:
            return super().predict_bbox(
                x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale
            )
        if not most:
            nothing = boxes.new_zeros(0)
            return [
                InstanceData(bboxes=boxes[i, :0], scores=nothing, labels=nothing.long())
                for i in range(len(boxes))
            ]
        # Boxes of two classes do not touch, as in mmcv's batched_nms.
        largest = torch.where(scores[..., None] >= 0, boxes, 0).flatten(1).amax(dim=1)
        apart = boxes + (labels * (largest + 1)[:, None])[..., None]
        keep = suppress(apart, scores >= 0, rcnn_test_cfg.nms['iou_threshold'])
        count = min(most, rcnn_test_cfg.max_per_img) if rcnn_test_cfg.max_per_img > 0 else most
        scores, index = torch.where(keep, scores, -1.0).topk(count, dim=1)
        counts = (scores >= 0).sum(dim=1).tolist()  # and the second
        boxes, labels = boxes_.take(boxes, index), labels.gather(1, index)
        return [
            InstanceData(bboxes=boxes[i, :own], scores=scores[i, :own], labels=labels[i, :own])
            for i, own in enumerate(counts)
        ]


def _proposals(given: Sequence) -> tuple[Tensor, Tensor]:
    """Boxes (B, n, 4), and which of them there are (B, n)."""
    if isinstance(given, Proposals):
        return given.boxes, given.valid
    boxes = [_tensor(own.bboxes) for own in given]
    lengths = transfer.send([[len(own)] for own in boxes], torch.long, boxes[0].device)
    boxes = boxes_.pad_rows(boxes, least=1)
    return boxes, torch.arange(boxes.shape[1], device=boxes.device) < lengths


def _rois(boxes: Tensor) -> Tensor:
    """Boxes (B, n, 4) of each image as RoIs (B * n, 5)."""
    image = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)
    image = image[:, None, None].expand(-1, boxes.shape[1], -1)
    return torch.cat([image, boxes], dim=2).flatten(0, 1)


def _send_masks(instances: list, device: torch.device) -> Tensor | list:
    """All masks of the batch on their way to the device (K, H, W), or as they are."""
    masks = [own.masks for own in instances]
    if not all(type(own) in (BitmapMasks, PaddedMasks) for own in masks):
        return masks
    arrays = [own.masks for own in masks if len(own.masks)]
    if not arrays or len({(own.shape[1:], own.dtype) for own in arrays}) > 1:
        return masks
    tensors = [torch.from_numpy(own) for own in arrays]
    joined = torch.empty(
        (sum(map(len, tensors)), *tensors[0].shape[1:]),
        dtype=tensors[0].dtype,
        pin_memory=device.type == 'cuda',
    )
    torch.cat(tensors, out=joined)  # by several threads, as NumPy does not
    return joined.to(device, non_blocking=True), [len(own.masks) for own in masks]


def _mask_targets(boxes: list[Tensor], numbers: list[Tensor], masks, cfg: dict) -> Tensor:
    """Masks within boxes, as ``mask_target`` makes them: (boxes of all images, h, w), float32.

    Args:
        boxes: (n, 4) for each image.
        numbers: Which of the image's masks, (n,) for each.
        masks: As of :func:`_send_masks`.
        cfg: ``mask_size``, and maybe ``soft_mask_target``.
    """
    if isinstance(masks, list):
        return mask_target(boxes, numbers, masks, cfg)
    masks, lengths = masks
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    which = torch.cat([own + start for own, start in zip(numbers, starts, strict=True)])
    height, width = masks.shape[1:]
    corners = torch.cat(boxes)
    x, y = corners[:, 0::2].clamp(0, width), corners[:, 1::2].clamp(0, height)
    corners = torch.stack([x, y], dim=2).flatten(1)
    rois = torch.cat([which[:, None].to(corners.dtype), corners], dim=1)
    masks = masks.to(corners.dtype)[:, None]
    targets = roi_align(masks, rois, _pair(cfg.mask_size), 1.0, 0, 'avg', True)[:, 0]
    return targets.float() if cfg.get('soft_mask_target', False) else (targets >= 0.5).float()
