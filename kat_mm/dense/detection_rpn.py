"""mmdet's RPN with all images at once, and proposals that nobody waits for."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models import RPNHead
from mmdet.models.losses import l1_loss, smooth_l1_loss
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import Tensor

from kat_mm.ops import suppress

from . import detection_boxes as boxes_

_MOST_SIZES = 8


class Proposals(Sequence):
    """Proposals of a batch: tensors to those who take tensors, to others a list of InstanceData.

    The list is made when it is first asked for, which waits for the device.
    """

    def __init__(self, boxes: Tensor, scores: Tensor, valid: Tensor):
        self.boxes, self.scores, self.valid = boxes, scores, valid
        """(B, n, 4), (B, n) and (B, n), by falling score, those that are valid first."""
        self._instances = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index):
        if self._instances is None:
            self._instances = []
            counts = self.valid.sum(dim=1).tolist()
            for boxes, scores, count in zip(self.boxes, self.scores, counts, strict=True):
                labels = scores.new_zeros(count, dtype=torch.long)
                self._instances.append(
                    InstanceData(bboxes=boxes[:count], scores=scores[:count], labels=labels)
                )
        return self._instances[index]


class FastRPNHead(RPNHead):
    """The same losses and proposals as its base, in fewer launches and without waiting."""

    def _anchors(self, sizes: tuple, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Anchors of each level (A, 4), made once for maps of these sizes."""
        known = self.__dict__.setdefault('_known_anchors', {})
        key = sizes, device, dtype
        if key not in known:
            if len(known) >= _MOST_SIZES:  # images of many sizes
                known.pop(next(iter(known)))
            known[key] = self.prior_generator.grid_priors(sizes, dtype, device)
        return known[key]

    def _inside(self, sizes: tuple, metas: Sequence[dict], anchors: Tensor) -> list[Tensor | None]:
        """Which anchors of each image count, (A,); None where all do."""
        border, generator = self.train_cfg['allowed_border'], self.prior_generator
        inside = []
        for meta in metas:
            height, width = meta['pad_shape'][:2]
            own = None
            if any(
                -(-height // stride[1]) < size[0] or -(-width // stride[0]) < size[1]
                for size, stride in zip(sizes, generator.strides, strict=True)
            ):
                own = torch.cat(generator.valid_flags(sizes, (height, width), anchors.device))
            if border >= 0:
                height, width = meta['img_shape'][:2]
                x1, y1, x2, y2 = anchors.unbind(1)
                fits = (x1 >= -border) & (y1 >= -border)
                fits &= (x2 < width + border) & (y2 < height + border)
                own = fits if own is None else own & fits
            inside.append(own)
        return inside

    def _assign(self, anchors: Tensor, truths: Tensor, inside: Tensor | None) -> Tensor:
        """The truth of each anchor of one image, (A,)."""
        if len(truths):
            overlaps = boxes_.overlaps(truths, anchors)
            if inside is not None:
                overlaps.masked_fill_(~inside, -1)
            return boxes_.assign(overlaps, self.assigner)
        if inside is not None:
            return inside.long() - 1
        return torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list | None = None,
    ) -> dict:
        """As of its base; losses are sums over the levels."""
        sizes = tuple(tuple(scores.shape[-2:]) for scores in cls_scores)
        anchors = torch.cat(self._anchors(sizes, cls_scores[0].device, torch.float32))
        inside = self._inside(sizes, batch_img_metas, anchors)
        truths = [_tensor(instances.bboxes) for instances in batch_gt_instances]
        # One image at a time: overlaps of all anchors take much memory.
        assigned = torch.stack(
            [self._assign(anchors, *own) for own in zip(truths, inside, strict=True)]
        )
        samples = boxes_.sample(assigned, self.sampler)

        scores = torch.cat([_rows(level, 1) for level in cls_scores], dim=1)[..., 0]
        weight = samples.is_sample.float()
        if self.train_cfg['pos_weight'] > 0:
            weight = torch.where(samples.is_positive, self.train_cfg['pos_weight'], weight)
        numbers = torch.stack([samples.num_positive, samples.num_negative])
        average = numbers.clamp(min=1).sum() + torch.finfo(torch.float32).eps
        loss_cls = F.binary_cross_entropy_with_logits(
            scores.gather(1, samples.index), samples.is_positive.to(scores.dtype), reduction='none'
        )
        loss_cls = self.loss_cls.loss_weight * (loss_cls * weight).sum() / average

        # Positive samples lie in the first slots.
        most = int(self.sampler.num * self.sampler.pos_fraction)
        index, is_positive = samples.index[:, :most], samples.is_positive[:, :most]
        number = (assigned.gather(1, index) - 1).clamp_(min=0)
        target = boxes_.take(boxes_.pad_rows(truths, least=1), number)
        priors = anchors[index]
        deltas = torch.cat([_rows(level, 4) for level in bbox_preds], dim=1)
        loss_bbox = box_loss(
            self.loss_bbox,
            boxes_.take(deltas, index),
            boxes_.encode(priors, target, self.bbox_coder),
            is_positive,
            average,
        )
        return dict(loss_rpn_cls=loss_cls, loss_rpn_bbox=loss_bbox)

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> Sequence[InstanceData]:
        """As of its base, where nothing is rescaled."""
        cfg = self.test_cfg if cfg is None else cfg
        if score_factors is not None or rescale or not with_nms or not is_plain_nms(cfg['nms']):
            return super().predict_by_feat(
                cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale, with_nms
            )
        sizes = tuple(tuple(scores.shape[-2:]) for scores in cls_scores)
        # Anchors in half precision would be off by pixels.
        dtype = torch.promote_types(cls_scores[0].dtype, torch.float32)
        anchors_of_levels = self._anchors(sizes, cls_scores[0].device, dtype)
        most = max(len(anchors) for anchors in anchors_of_levels)
        if cfg.get('nms_pre', -1) > 0:
            most = min(most, cfg['nms_pre'])
        levels = []
        for level, anchors in enumerate(anchors_of_levels):
            scores = _rows(cls_scores[level].detach(), 1)[..., 0].sigmoid()
            count = min(most, len(anchors))
            scores, index = scores.topk(count, dim=1)
            deltas = boxes_.take(_rows(bbox_preds[level].detach(), 4), index)
            priors = anchors[index]
            rest = most - count
            levels.append(
                (
                    F.pad(scores, [0, rest], value=-1.0),
                    F.pad(deltas, [0, 0, 0, rest]),
                    F.pad(priors, [0, 0, 0, rest]),
                )
            )
        scores, deltas, priors = (torch.stack(part, dim=1) for part in zip(*levels, strict=True))
        limits = boxes_.limits_of([meta['img_shape'] for meta in batch_img_metas], deltas)
        boxes = boxes_.decode(priors, deltas, self.bbox_coder, limits)
        valid = scores >= 0
        least = cfg.get('min_bbox_size', -1)
        if least >= 0:
            valid &= (boxes[..., 2:] - boxes[..., :2] > least).all(dim=-1)
        keep = suppress(boxes.flatten(0, 1), valid.flatten(0, 1), cfg['nms']['iou_threshold'])
        scores = torch.where(keep.view_as(scores), scores, -1.0).flatten(1)
        scores, index = scores.topk(min(cfg['max_per_img'], scores.shape[1]), dim=1)
        return Proposals(boxes_.take(boxes.flatten(1, 2), index), scores, scores >= 0)


def box_loss(
    loss: torch.nn.Module, predicted: Tensor, target: Tensor, counts: Tensor, average: Tensor
) -> Tensor:
    """An L1 or smooth L1 loss of mmdet, without its question whether there is a weight.

    Args:
        loss: The module.
        predicted: (..., 4).
        target: (..., 4).
        counts: Which rows count, (...).
        average: By what the sum is divided.
    """
    weight = counts[..., None].to(target.dtype)
    # That of a slot which is not taken may be no number.
    target = torch.where(counts[..., None], target, 0)
    if hasattr(loss, 'beta'):
        values = smooth_l1_loss(predicted, target, reduction='none', beta=loss.beta)
    else:
        values = l1_loss(predicted, target, reduction='none')
    return loss.loss_weight * (values * weight).sum() / average


def is_plain_nms(cfg: dict) -> bool:
    """Whether suppression is greedy, of the boxes of each level or class by themselves."""
    return cfg.get('type', 'nms') == 'nms' and set(cfg) <= {'type', 'iou_threshold'}


def _rows(level: Tensor, channels: int) -> Tensor:
    """(B, A * channels, H, W) to (B, H * W * A, channels)."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, channels)


def _tensor(boxes: Tensor | HorizontalBoxes) -> Tensor:
    return boxes.tensor if isinstance(boxes, HorizontalBoxes) else boxes
