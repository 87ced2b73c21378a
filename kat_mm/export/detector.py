"""mmdet's two-stage detectors with results of a fixed size, as exported programs need them.

The steps are those of mmdet's RPNHead, StandardRoIHead and CascadeRoIHead. Where these choose some
of the boxes, here all are kept, and those not chosen have the score 0 and come last.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from kat_mm.errors import UserError

from .operators import nms_mask

# Candidates of all classes that enter the last suppression; mmdet takes all above its threshold.
_CANDIDATES = 4096


class Detector(nn.Module):
    """Images to a fixed number of boxes each, best first.

    ``forward`` takes images (B, 3, H, W), padded at the right and the bottom, and the height and
    width of each before the padding, (B, 2). It returns boxes (B, K, 4) as corners in pixels,
    scores (B, K), labels (B, K), and with a mask head masks (B, K, h, w): probabilities over the
    box. K is ``test_cfg.rcnn.max_per_img``; rows without an object have the score 0.

    Raises:
        UserError: A part of the detector is none that is known here; it is named.
    """

    task, inputs = 'detection', ('image', 'image_size')

    def __init__(self, model: nn.Module):
        super().__init__()
        _check(model)
        self.model = model
        self.with_masks = bool(model.roi_head.with_mask)
        self.outputs = ('boxes', 'scores', 'labels') + ('masks',) * self.with_masks
        threshold = model.test_cfg.rcnn.get('mask_thr_binary', 0.5)
        self.postprocessing = dict(mask_threshold=threshold) if self.with_masks else {}

    def forward(self, image: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.extract_feat(image)
        boxes, found = self._propose(maps, image_size)
        boxes, scores, labels = self._detect(maps, boxes, found, image_size)
        if not self.with_masks:
            return boxes, scores, labels
        return boxes, scores, labels, self._segment(maps, boxes, labels)

    def _propose(self, maps: tuple[Tensor, ...], image_size: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, 4) proposals, and which of them are any, (B, P)."""
        head = self.model.rpn_head
        cfg = self.model.test_cfg.rpn
        logits, deltas = head(maps)
        sizes = [tuple(level.shape[-2:]) for level in logits]
        priors = head.prior_generator.grid_priors(sizes, device=maps[0].device)
        boxes, scores, levels = [], [], []
        for level, (logit, delta, prior) in enumerate(zip(logits, deltas, priors, strict=True)):
            score = logit.permute(0, 2, 3, 1).flatten(1).sigmoid()
            delta = delta.permute(0, 2, 3, 1).reshape(score.shape[0], -1, 4)
            score, index = score.topk(min(cfg.nms_pre, score.shape[1]))
            delta = _rows(delta, index)
            boxes.append(decode(head.bbox_coder, prior[index], delta, image_size))
            scores.append(score)
            levels.append(torch.full_like(score, level))
        boxes, scores, levels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)
        least = cfg.get('min_bbox_size', -1)
        large = ((boxes[..., 2:] - boxes[..., :2]) > least).all(-1) if least >= 0 else None
        threshold = cfg.nms.iou_threshold
        index, scores = suppress(boxes, scores, levels, threshold, cfg.max_per_img, large)
        return _rows(boxes, index), scores > 0

    def _detect(
        self, maps: tuple[Tensor, ...], boxes: Tensor, found: Tensor, image_size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, K, 4), scores (B, K), labels (B, K)."""
        roi = self.model.roi_head
        cascade = isinstance(roi.bbox_head, nn.ModuleList)
        heads = list(roi.bbox_head) if cascade else [roi.bbox_head]
        extractors = list(roi.bbox_roi_extractor) if cascade else [roi.bbox_roi_extractor]
        logits = []
        for stage, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            logit, delta = head(extract(extractor, maps, boxes))
            logits.append(logit.unflatten(0, boxes.shape[:2]))
            delta = delta.unflatten(0, boxes.shape[:2]).unflatten(2, (-1, 4))
            if stage < len(heads) - 1:
                label = logits[-1][..., :-1].argmax(-1)
                delta = delta[:, :, 0] if head.reg_class_agnostic else _of_class(delta, label)
                boxes = decode(head.bbox_coder, boxes, delta, image_size)
        scores = torch.stack(logits).mean(0).softmax(-1)[..., :-1]
        boxes = decode(head.bbox_coder, boxes[:, :, None], delta, image_size)
        cfg = self.model.test_cfg.rcnn
        classes = scores.shape[-1]
        scores = torch.where(found[..., None] & (scores > cfg.score_thr), scores, 0.0).flatten(1)
        scores, index = scores.topk(min(scores.shape[1], _CANDIDATES))
        labels = index % classes
        rows = torch.div(index, classes, rounding_mode='floor')
        boxes = _rows(boxes.flatten(1, 2), rows if head.reg_class_agnostic else index)
        index, scores = suppress(
            boxes, scores, labels.to(boxes), cfg.nms.iou_threshold, cfg.max_per_img
        )
        return _rows(boxes, index), scores, labels.gather(1, index)

    def _segment(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """(B, K, h, w) probabilities of a mask, over each box."""
        roi = self.model.roi_head
        cascade = isinstance(roi.mask_head, nn.ModuleList)
        heads = list(roi.mask_head) if cascade else [roi.mask_head]
        extractors = list(roi.mask_roi_extractor) if cascade else [roi.mask_roi_extractor]
        masks = [
            head(extract(extractor, maps, boxes)).unflatten(0, boxes.shape[:2]).sigmoid()
            for head, extractor in zip(heads, extractors, strict=True)
        ]
        mean = torch.stack(masks).mean(0)
        return mean[:, :, 0] if mean.shape[2] == 1 else _of_class(mean, labels)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, 4) by (B, K) to (B, K, 4)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _of_class(values: Tensor, label: Tensor) -> Tensor:
    """(B, N, classes, ...) by (B, N) to (B, N, ...)."""
    shape = values.shape[3:]
    index = label.view(*label.shape, 1, *(1 for _ in shape)).expand(-1, -1, 1, *shape)
    return values.gather(2, index).squeeze(2)


def decode(coder, boxes: Tensor, deltas: Tensor, image_size: Tensor) -> Tensor:
    """Boxes moved by what a head predicts, cut at the image's border (mmdet's DeltaXYWHBBoxCoder).

    Args:
        coder: Has ``means``, ``stds``, ``clip_border``.
        boxes: (B, ..., 4), corners.
        deltas: (B, ..., 4): centre, then logarithm of the size.
        image_size: (B, 2), height and width.

    Returns:
        (B, ..., 4), corners.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    low, high = boxes.split(2, -1)
    centre = (low + high) * 0.5 + (high - low) * deltas[..., :2]
    most = 4.135166556742356  # log(1000 / 16), mmdet's limit
    half = (high - low) * deltas[..., 2:].clamp(-most, most).exp() * 0.5
    low, high = centre - half, centre + half
    if coder.clip_border:
        border = image_size.flip(1).view(-1, *(1 for _ in range(deltas.dim() - 2)), 2)
        low, high = (torch.minimum(corner.clamp(min=0), border) for corner in (low, high))
    return torch.cat([low, high], -1)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    number: int,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best boxes, of which those of a group overlap little.

    Args:
        boxes: (B, N, 4), corners.
        scores: (B, N), from 0.
        groups: (B, N), numbers of classes or levels as floats; of different ones nothing goes.
        iou_threshold: A box goes that overlaps more than this with a better one.
        number: K; if N is less, N.
        allowed: (B, N), those that may stay at all.

    Returns:
        Indices (B, K) and scores (B, K), which are 0 where there is no more.
    """
    apart = groups * (boxes.amax((1, 2))[:, None] + 1)
    keep = nms_mask(boxes + apart[..., None], scores, iou_threshold)
    if allowed is not None:
        keep = keep & allowed
    scores, index = torch.where(keep, scores, 0.0).topk(min(number, scores.shape[1]))
    return index, scores


def extract(extractor: nn.Module, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Features (B N, C, h, w) of boxes (B, N, 4), each from the level of its size.

    Every level is asked for every box, but for those of other levels with a box without extent,
    which takes no samples.
    """
    batch, number = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
    image = image[:, None, None].expand(-1, number, 1)
    rois = torch.cat([image, boxes], -1).flatten(0, 1)
    levels = extractor.map_roi_levels(rois, extractor.num_inputs)
    total: Any = 0.0
    for level in range(extractor.num_inputs):
        layer = extractor.roi_layers[level]
        mine = (levels == level)[:, None]
        own = torch.cat([rois[:, :1], torch.where(mine, rois[:, 1:], 0.0)], -1)
        features = roi_align(
            maps[level], own, layer.output_size, layer.spatial_scale, layer.sampling_ratio, True
        )
        total = total + torch.where(mine[..., None, None], features, 0.0)
    return total


def _check(model: nn.Module) -> None:
    roi = model.roi_head
    rpn = getattr(model, 'rpn_head', None)
    heads = roi.bbox_head if isinstance(roi.bbox_head, nn.ModuleList) else [roi.bbox_head]
    extractors = [roi.bbox_roi_extractor] + [roi.mask_roi_extractor] * bool(roi.with_mask)
    layers = [layer for part in extractors for layer in part.modules() if hasattr(layer, 'aligned')]
    parts = {
        'rpn_head': (type(rpn).__name__, rpn, ('RPNHead',)),
        'roi_head': (type(roi).__name__, roi, ('StandardRoIHead', 'CascadeRoIHead')),
    }
    for name, (given, _, known) in parts.items():
        if given not in known:
            raise UserError(
                f'model.{name} is a {given}, which does not export; {" and ".join(known)} do'
            )
    problems = {
        'model.roi_head.shared_head': getattr(roi, 'with_shared_head', False),
        'a box coder that is no DeltaXYWHBBoxCoder': any(
            type(head.bbox_coder).__name__ != 'DeltaXYWHBBoxCoder' for head in [rpn, *heads]
        ),
        'a loss with class channels of its own': any(head.custom_cls_channels for head in heads),
        'an rpn_head with softmax': not rpn.use_sigmoid_cls,
        'an RoI layer that is no RoIAlign with aligned=True and sampling_ratio >= 0': any(
            not layer.aligned or layer.sampling_ratio < 0 or layer.pool_mode != 'avg'
            for layer in layers
        ),
        'a suppression other than nms': any(
            cfg.nms.get('type', 'nms') != 'nms' or cfg.nms.get('class_agnostic')
            for cfg in (model.test_cfg.rpn, model.test_cfg.rcnn)
        ),
    }
    for what, there in problems.items():
        if there:
            raise UserError(f'{type(model).__name__} has {what}, which does not export')
