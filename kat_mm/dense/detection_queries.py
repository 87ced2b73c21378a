"""What mmdet makes of the predictions of queries, without asking the GPU for each of them."""

import torch
import torch.nn.functional as F
from mmdet.models import MaskFormerFusionHead
from mmdet.structures import INSTANCE_OFFSET
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from kat_mm.transfer import send


class FastMaskFormerFusionHead(MaskFormerFusionHead):
    """The same as its base; boxes and areas are those of all masks at once."""

    def panoptic_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> PixelData:
        """As of its base."""
        get = self.test_cfg.get
        scores, labels = F.softmax(mask_cls, dim=-1).max(-1)
        sure = (labels != self.num_classes) & (scores > get('object_mask_thr', 0.8))
        kept = sure.nonzero()[:, 0]
        if not len(kept):
            nothing = mask_pred.new_full((1, *mask_pred.shape[1:]), self.num_classes)
            return PixelData(sem_seg=nothing.int())
        masks = mask_pred[kept].sigmoid()
        segments = (scores[kept].view(-1, 1, 1) * masks).argmax(0)
        inside = masks >= 0.5
        areas = torch.zeros_like(kept)
        areas.scatter_add_(0, segments.flatten(), torch.ones_like(segments).flatten())
        table = torch.stack([labels[kept], areas, inside.sum((1, 2))])
        values, things = [], 0
        for label, area, whole in table.T.tolist():
            if not (area and whole) or area / whole < get('iou_thr', 0.8):
                values.append(self.num_classes)
            elif label < self.num_things_classes:
                things += 1
                values.append(label + things * INSTANCE_OFFSET)
            else:  # regions of a class are one
                values.append(label)
        found = send(values, torch.int32, segments.device)[segments]
        if get('filter_low_score', False):
            is_inside = inside.gather(0, segments[None])[0]
            found = torch.where(is_inside, found, self.num_classes)
        return PixelData(sem_seg=found[None])

    def instance_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> InstanceData:
        """As of its base."""
        scores = F.softmax(mask_cls, dim=-1)[:, :-1].flatten()
        scores, places = scores.topk(self.test_cfg.get('max_per_image', 100), sorted=False)
        labels, queries = places % self.num_classes, places // self.num_classes
        if self.num_stuff_classes:
            things = (labels < self.num_things_classes).nonzero()[:, 0]
            scores, labels, queries = scores[things], labels[things], queries[things]
        logits = mask_pred[queries]
        masks = logits > 0
        inside = masks.float()
        sums = (logits.sigmoid() * inside).flatten(1).sum(1)
        return InstanceData(
            bboxes=boxes_of(masks),
            labels=labels,
            scores=scores * (sums / (inside.flatten(1).sum(1) + 1e-6)),
            masks=masks,
        )


def boxes_of(masks: Tensor) -> Tensor:
    """(N, 4) corners of masks (N, H, W), bool; zeros of one without a pixel."""
    (left, right), (top, bottom) = _ends(masks.any(1)), _ends(masks.any(2))
    return torch.stack([left, top, right, bottom], dim=1).float()


def _ends(taken: Tensor) -> tuple[Tensor, Tensor]:
    """The first place that is taken in each row (N, places), and the one behind the last."""
    count = taken.shape[1]
    place = torch.arange(count, device=taken.device)
    stop = torch.where(taken, place + 1, 0).amax(1)
    return torch.minimum(torch.where(taken, place, count).amin(1), stop), stop
