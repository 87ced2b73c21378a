"""mmdet's DINO (Zhang et al., ICLR 2023): losses of all predictions and images at once.

mmdet matches layer by layer and image by image, and lets the host wait for the GPU at each, and for
the sums that losses are divided by. Here the host waits for the costs of a whole batch, once, while
the GPU computes the losses of denoising, which need none. Costs and losses are those of mmdet's own
modules but for distances and overlaps of boxes, for which these copy numbers to the GPU.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet.models import DINOHead
from mmdet.models.losses import FocalLoss, GIoULoss, L1Loss
from mmdet.models.task_modules import BBoxL1Cost, FocalLossCost, HungarianAssigner, IoUCost
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kat_mm.transfer import Receive, send

_COSTS = (BBoxL1Cost, FocalLossCost, IoUCost)
_COST_EPS = 1e-6  # of areas in mmdet's costs
_EPS = torch.finfo(torch.float32).eps  # of mmdet's averages


class _Objects(NamedTuple):
    """The objects of a batch, image after image."""

    labels: Tensor
    """(G,)."""
    corners: Tensor
    """(G, 4) in pixels."""
    boxes: Tensor
    """(G, 4) centre, width and height in parts of the image."""
    counts: list[int]
    """Objects of each image."""
    scale: Tensor
    """(B, 1, 4) width, height, width, height of each image in pixels."""


class _Pairs(NamedTuple):
    """Which queries are to find which objects, M pairs in each of P predictions."""

    image: Tensor
    """(M,)."""
    query: Tensor
    """(P, M), or (1, M) where it is the same in all."""
    object: Tensor
    """(P, M) or (1, M), among the objects of the batch."""


class FastDINOHead(DINOHead):
    """The same as its base."""

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
    ) -> dict[str, Tensor]:
        """As of its base."""
        scores, boxes, dn_scores, dn_boxes = self.split_outputs(
            all_layers_cls_scores, all_layers_bbox_preds, dn_meta
        )
        if enc_cls_scores is not None:
            scores = torch.cat([scores, enc_cls_scores[None]])
            boxes = torch.cat([boxes, enc_bbox_preds[None]])
        objects = _objects_of(batch_gt_instances, batch_img_metas)
        costs = self._costs(scores, boxes, objects)
        dn_losses = self._losses(dn_scores, dn_boxes, objects, _denoising_pairs(objects, dn_meta))
        losses = self._losses(scores, boxes, objects, _matched_pairs(costs, objects, len(scores)))
        last = len(all_layers_cls_scores) - 1
        layers = [last, *range(last)]
        names = {layer: '' if layer == last else f'd{layer}.' for layer in layers}
        found = {f'{names[i]}{key}': loss[i] for i in layers for key, loss in losses.items()}
        if enc_cls_scores is not None:
            found.update({f'enc_{key}': loss[-1] for key, loss in losses.items()})
        found.update(
            {f'{names[i]}dn_{key}': loss[i] for i in layers for key, loss in dn_losses.items()}
        )
        return found

    @torch.no_grad()
    def _costs(self, scores: Tensor, boxes: Tensor, objects: _Objects) -> list[Receive]:
        """Of each image that has objects, (P, Q, objects), on their way to the host."""
        corners = bbox_cxcywh_to_xyxy(boxes) * objects.scale
        wanted = zip(
            objects.labels.split(objects.counts),
            objects.boxes.split(objects.counts),
            objects.corners.split(objects.counts),
            strict=True,
        )
        costs = []
        for image, (labels, own_boxes, own_corners) in enumerate(wanted):
            if not len(labels):
                continue
            # Of all predictions as if they were one's.
            found = InstanceData(
                scores=scores[:, image].flatten(0, 1), bboxes=corners[:, image].flatten(0, 1)
            )
            own = InstanceData(labels=labels, bboxes=own_corners)
            cost = torch.zeros((), device=scores.device)
            for part in self.assigner.match_costs:
                if type(part) is BBoxL1Cost:  # whose way waits for a copy of the image's size
                    distances = torch.cdist(boxes[:, image].flatten(0, 1), own_boxes, p=1)
                    cost = cost + part.weight * distances
                elif type(part) is IoUCost:
                    overlaps = generalized_iou(found.bboxes[:, None], own_corners, _COST_EPS)
                    cost = cost - part.weight * overlaps
                else:
                    cost = cost + part(found, own)
            costs.append(Receive(cost.view(len(scores), -1, len(labels))))
        return costs

    def _losses(
        self, scores: Tensor, boxes: Tensor, objects: _Objects, pairs: _Pairs
    ) -> dict[str, Tensor]:
        """(P,) each, of logits (P, B, Q, classes) and boxes (P, B, Q, 4)."""
        number, count = len(scores), len(pairs.image)
        places = (torch.arange(number, device=scores.device)[:, None], pairs.image, pairs.query)
        labels = objects.labels.new_full(scores.shape[:3], self.num_classes)
        labels[places] = objects.labels[pairs.object]
        total = torch.full((1,), count, dtype=torch.float32, device=scores.device)
        shared = reduce_mean(total).clamp(min=1) + _EPS
        own = shared if self.sync_cls_avg_factor else max(count, 1) + _EPS
        # Without objects there are gradients, of zero, for all processes to exchange.
        nothing = 0 * boxes.sum((1, 2, 3))
        losses = dict(loss_cls=0 * scores.sum((1, 2, 3)), loss_bbox=nothing, loss_iou=nothing)
        if labels.numel():
            # By classes: mmcv's CUDA operator, for labels, waits for the greatest of them.
            wanted = labels.view(-1, 1) == torch.arange(self.num_classes, device=scores.device)
            each = self.loss_cls(scores.flatten(0, 2), wanted, reduction_override='none')
            losses['loss_cls'] = each.view(number, -1).sum(1) / own
        if count:
            found, own_boxes = boxes[places], objects.boxes[pairs.object].expand(number, -1, -1)
            scale = objects.scale[pairs.image, 0]
            corners, own_corners = (bbox_cxcywh_to_xyxy(one) * scale for one in (found, own_boxes))
            distances = self.loss_bbox(found, own_boxes, reduction_override='none')
            losses['loss_bbox'] = distances.flatten(1).sum(1) / shared
            missed = 1 - generalized_iou(corners, own_corners, self.loss_iou.eps)
            losses['loss_iou'] = self.loss_iou.loss_weight * missed.sum(1) / shared
        return losses


def generalized_iou(boxes: Tensor, others: Tensor, eps: float) -> Tensor:
    """Overlap of boxes over their union, less what neither has of the box around both, over that.

    Rezatofighi et al., Generalized Intersection over Union, CVPR 2019, algorithm 1.

    Args:
        boxes, others: (..., 4) x1, y1, x2, y2, broadcast together.
        eps: Least area to divide by.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    other_low, other_high = others[..., :2], others[..., 2:]
    shared = _area(torch.min(high, other_high) - torch.max(low, other_low))
    around = _area(torch.max(high, other_high) - torch.min(low, other_low)).clamp(min=eps)
    union = _area(high - low) + _area(other_high - other_low) - shared
    union = union.clamp(min=eps)
    return shared / union - (around - union) / around


def _area(size: Tensor) -> Tensor:
    width, height = size.clamp(min=0).unbind(-1)
    return width * height


def _objects_of(instances: Sequence[InstanceData], metas: Sequence[dict]) -> _Objects:
    labels = torch.cat([one.labels for one in instances])
    corners = torch.cat([one.bboxes for one in instances])
    counts = [len(one) for one in instances]
    sizes = np.array([[*meta['img_shape'][1::-1]] * 2 for meta in metas], dtype=np.float32)
    both = send(np.concatenate([sizes, sizes.repeat(counts, 0)]), torch.float32, corners.device)
    scale, of_objects = both.split([len(sizes), len(labels)])
    boxes = bbox_xyxy_to_cxcywh(corners / of_objects)
    return _Objects(labels, corners, boxes, counts, scale[:, None])


def _matched_pairs(costs: Sequence[Receive], objects: _Objects, number: int) -> _Pairs:
    """Queries and objects by the assignment that costs least, for each prediction and image."""
    image, pairs, start = [], [np.zeros((number, 2, 0), int)], 0
    with_objects = [(i, count) for i, count in enumerate(objects.counts) if count]
    for (index, count), cost in zip(with_objects, costs, strict=True):
        own = np.array([linear_sum_assignment(one) for one in cost.get().numpy()])
        image += [index] * own.shape[2]
        pairs.append(own + [[0], [start]])
        start += count
    rows = np.concatenate(pairs, 2).reshape(2 * number, len(image))
    found = send(np.stack([image, *rows]), torch.long, objects.labels.device)
    return _Pairs(found[0], found[1::2], found[2::2])


def _denoising_pairs(objects: _Objects, dn_meta: dict[str, int]) -> _Pairs:
    """A positive query of each object in each group, as mmdet's query generator places them."""
    groups = dn_meta['num_denoising_groups']
    of_group = dn_meta['num_denoising_queries'] // groups
    image = np.repeat(np.arange(len(objects.counts)), objects.counts)
    place = np.concatenate([np.arange(count) for count in objects.counts])
    group = np.arange(groups)[:, None]
    rows = np.stack(
        [
            np.tile(image, groups),
            (group * of_group + place).flatten(),
            np.tile(np.arange(len(image)), groups),
        ]
    )
    found = send(rows, torch.long, objects.labels.device)
    return _Pairs(found[0], found[1:2], found[2:])


def why_not_at_once(head: DINOHead) -> Iterator[str]:
    """What in a head is not as DINO has it, so that it stays mmdet's."""
    if not head.train_cfg:
        yield 'no train_cfg'
        return
    costs = getattr(head.assigner, 'match_costs', ())
    if type(head.assigner) is not HungarianAssigner or any(
        type(cost) not in _COSTS
        or getattr(cost, 'box_format', 'xywh') != 'xywh'
        or getattr(cost, 'iou_mode', 'giou') != 'giou'
        for cost in costs
    ):
        yield 'assigner'
    for name, kind in (('loss_cls', FocalLoss), ('loss_bbox', L1Loss), ('loss_iou', GIoULoss)):
        loss = getattr(head, name)
        if type(loss) is not kind or loss.reduction != 'mean':
            yield name
    if head.bg_cls_weight:
        yield 'bg_cls_weight'
