"""Matching of queries with objects, as mmdet's, for all images of a batch at once.

mmdet matches image by image, some fifty launches each, and lets the host wait for every one. Here
an image costs the host one assignment: costs of a batch are a few launches, and they reach the host
beside the work that follows.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import point_sample
from mmdet.models.task_modules import (
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    HungarianAssigner,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kat_mm.transfer import Receive

from .objects import Objects


class MatchCosts(NamedTuple):
    """Weights of the costs of which a Hungarian assigner makes one."""

    classes: float
    masks: float
    dice: float
    dice_eps: float

    @classmethod
    def of(cls, assigner) -> 'MatchCosts | None':
        """Those of mmdet's assigner as Mask2Former has it; None for any other."""
        if type(assigner) is not HungarianAssigner:
            return None
        costs = {type(cost): cost for cost in assigner.match_costs}
        if len(assigner.match_costs) != 3 or costs.keys() != {
            ClassificationCost,
            CrossEntropyLossCost,
            DiceCost,
        }:
            return None
        classes, masks, dice = (
            costs[kind] for kind in (ClassificationCost, CrossEntropyLossCost, DiceCost)
        )
        if not (masks.use_sigmoid and dice.pred_act and dice.naive_dice):
            return None
        return cls(classes.weight, masks.weight, dice.weight, dice.eps)

    @torch.no_grad()
    def __call__(
        self, classes: Tensor, masks: Tensor, objects: Objects, num_points: int
    ) -> 'PendingCosts':
        """Costs of a batch, on their way to the host.

        Args:
            classes: Logits (B, Q, classes + 1).
            masks: Logits (B, Q, H', W').
            objects: At least one.
            num_points: Points on which masks are compared, drawn for each image.
        """
        points = torch.rand(len(masks), num_points, 2, device=masks.device)
        with torch.autocast(masks.device.type, enabled=False):
            logits = point_sample(masks.float(), points)
            truth = objects.by_image(point_sample(objects.masks, points[objects.image])[:, 0])
            probabilities = logits.sigmoid()
            # Of each query with each object: the sums of their product over the points.
            products = torch.cat([logits, probabilities], dim=1) @ truth.transpose(1, 2)
            by_logits, shared = products.split(masks.shape[1], dim=1)
            # softplus(x) - t x is the cross-entropy of the logit x and the target t.
            cross_entropy = (F.softplus(logits).sum(2)[..., None] - by_logits) / num_points
            sums = probabilities.sum(2)[..., None] + truth.sum(2)[:, None]
            dice = 1 - (2 * shared + self.dice_eps) / (sums + self.dice_eps)
            labels = objects.by_image(objects.labels)[:, None].expand(-1, masks.shape[1], -1)
            missed = -classes.float().softmax(-1).gather(2, labels)
            cost = self.classes * missed + self.masks * cross_entropy + self.dice * dice
        return PendingCosts(cost, objects.counts)


class PendingCosts:
    """Costs (B, Q, objects) on their way to the host, which waits for these alone."""

    def __init__(self, cost: Tensor, counts: list[int]):
        self._cost, self._counts = Receive(cost), counts

    def assign(self) -> list[int]:
        """Of each object its query, so that the sum of costs is the least.

        Of objects beyond the number of queries, the number of queries.
        """
        queries = []
        for cost, count in zip(self._cost.get().numpy(), self._counts, strict=True):
            own = np.full(count, len(cost))
            objects, found = linear_sum_assignment(cost[:, :count].T)
            own[objects] = found
            queries += own.tolist()
        return queries
