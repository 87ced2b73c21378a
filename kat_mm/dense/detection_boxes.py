"""What mmdet's two-stage heads do with boxes, for all images at once and without waiting.

The same arithmetic as mmdet's task modules. Where these pick rows out of tensors, which makes the
host wait for their number, here every image has as many slots as it may need, and which of them
are taken is a tensor too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.samplers import RandomSampler
from torch import Tensor

from kat_mm.transfer import constant, send

_MOST_GROWTH = abs(math.log(16 / 1000))  # of a box over its prior, as a logarithm


def pad_rows(rows: Sequence[Tensor], least: int = 0) -> Tensor:
    """Tensors (K_i, ...) as one (B, K, ...), with zeros behind those of fewer rows."""
    length = max(least, *(len(own) for own in rows))
    padded = [F.pad(own, [0, 0] * (own.dim() - 1) + [0, length - len(own)]) for own in rows]
    return torch.stack(padded)


def overlaps(truths: Tensor, priors: Tensor) -> Tensor:
    """IoU of boxes (..., K, 4) with boxes (..., N, 4), as of ``BboxOverlaps2D``: (..., K, N)."""
    x1, y1, x2, y2 = truths[..., :, None, :].unbind(-1)
    u1, v1, u2, v2 = priors[..., None, :, :].unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
    common = width.mul_(height)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
    return common.div_(union.clamp_(min=1e-6))


def assign(overlaps: Tensor, assigner: MaxIoUAssigner) -> Tensor:
    """The truth of each prior: -1 is ignored, 0 background, k the k-th truth.

    Args:
        overlaps: (..., K, N), at least one truth; -1 where there is no truth or no prior.
        assigner: Its thresholds.

    Returns:
        (..., N), int64.
    """
    most, best = overlaps.max(dim=-2)
    background = (most >= 0) & (most < assigner.neg_iou_thr)
    assigned = torch.where(most >= assigner.pos_iou_thr, best + 1, background.long() - 1)
    if assigner.match_low_quality:
        most = overlaps.amax(dim=-1, keepdim=True)
        best_of_truth = (overlaps == most) & (most >= assigner.min_pos_iou)
        numbers = torch.arange(1, overlaps.shape[-2] + 1, dtype=torch.int32, device=overlaps.device)
        # Of several truths the last one counts.
        number = torch.where(best_of_truth, numbers[:, None], 0).amax(dim=-2)
        assigned = torch.where(number > 0, number.long(), assigned)
    return assigned


class Samples(NamedTuple):
    """Priors of each image that a loss is made of: the positive ones, then the negative ones."""

    index: Tensor
    """Which priors, (B, slots)."""
    is_positive: Tensor
    """(B, slots)"""
    is_sample: Tensor
    """(B, slots): the others are there to fill up, and count for nothing."""
    num_positive: Tensor
    """(B,)"""
    num_negative: Tensor
    """(B,)"""


def sample(assigned: Tensor, sampler: RandomSampler) -> Samples:
    """What ``RandomSampler`` draws, from a random key of each prior.

    mmdet shuffles the list of candidates on the host, for which it has to know how many there are;
    here those with the largest keys are taken. Each subset is as likely as there.

    Args:
        assigned: (B, N), as of :func:`assign`.
        sampler: Its numbers; without ``add_gt_as_proposals``, which is the caller's.

    Returns:
        Samples with ``sampler.num`` slots for each image.
    """
    number, total = sampler.num, assigned.shape[1]
    most_positive = int(number * sampler.pos_fraction)
    keys = draw_keys(assigned)
    positive = _largest(keys, assigned > 0, min(most_positive, total))
    negative = _largest(keys, assigned == 0, min(number, total))
    num_positive, num_negative = ((keys >= 0).sum(dim=1) for keys, _ in (positive, negative))
    wanted = number - num_positive
    if sampler.neg_pos_ub >= 0:
        # As mmdet's, the bound is rounded down.
        bound = (sampler.neg_pos_ub * num_positive.clamp(min=1)).long()
        wanted = torch.minimum(wanted, bound)
    num_negative = torch.minimum(num_negative, wanted)
    slot = torch.arange(number, device=assigned.device)
    is_positive = slot < num_positive[:, None]
    is_sample = slot < (num_positive + num_negative)[:, None]
    # Positive ones lie before the negative ones, without a gap.
    place = torch.where(is_positive, slot, most_positive + slot - num_positive[:, None])
    most = most_positive + negative[1].shape[1] - 1
    index = torch.cat([_pad_to(positive[1], most_positive), negative[1]], dim=1)
    index = index.gather(1, place.clamp_(max=most))
    return Samples(index, is_positive, is_sample, num_positive, num_negative)


def draw_keys(assigned: Tensor) -> Tensor:
    """A number in [0, 1) for each prior."""
    return torch.rand(assigned.shape, device=assigned.device)


def _largest(keys: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keys of the first ``count`` candidates by key, -1 where there are fewer, and their index."""
    return torch.where(candidates, keys, -1.0).topk(count, dim=1)


def _pad_to(index: Tensor, length: int) -> Tensor:
    return F.pad(index, [0, length - index.shape[1]])


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, C) by index (B, n) of each image: (B, n, C)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def encode(priors: Tensor, boxes: Tensor, coder: DeltaXYWHBBoxCoder) -> Tensor:
    """What the coder's ``encode`` computes, (..., 4)."""
    priors, boxes = priors.float(), boxes.float()
    size, box_size = priors[..., 2:] - priors[..., :2], boxes[..., 2:] - boxes[..., :2]
    center = (priors[..., :2] + priors[..., 2:]) * 0.5
    box_center = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    deltas = torch.cat([(box_center - center) / size, torch.log(box_size / size)], dim=-1)
    means, stds = _statistics(coder, deltas)
    return deltas.sub_(means).div_(stds)


def decode(
    priors: Tensor, deltas: Tensor, coder: DeltaXYWHBBoxCoder, limits: Tensor | None
) -> Tensor:
    """What the coder's ``decode`` computes.

    Args:
        priors: (..., 4).
        deltas: (..., 4).
        coder: Its means and deviations.
        limits: Width and height to which boxes are cut, (..., 2) or what goes with that.

    Returns:
        (..., 4).
    """
    means, stds = _statistics(coder, deltas)
    deltas = deltas * stds + means
    size = priors[..., 2:] - priors[..., :2]
    center = (priors[..., :2] + priors[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(min=-_MOST_GROWTH, max=_MOST_GROWTH).exp() * 0.5
    low, high = center - half, center + half
    if coder.clip_border and limits is not None:
        low, high = (torch.minimum(x.clamp(min=0), limits) for x in (low, high))
    return torch.cat([low, high], dim=-1)


def _statistics(coder: DeltaXYWHBBoxCoder, like: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(
        constant(tuple(values), like.dtype, like.device) for values in (coder.means, coder.stds)
    )


def limits_of(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Widths and heights of images, (B, 1, 1, 2), of (height, width)."""
    values = tuple((float(shape[1]), float(shape[0])) for shape in shapes)
    if len(set(values)) == 1:
        return constant(values[:1], like.dtype, like.device)[:, None, None]
    return send(values, like.dtype, like.device)[:, None, None]
