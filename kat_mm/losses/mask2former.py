"""Mask2Former's losses (Cheng et al., CVPR 2022, section 3), as of mmdet's head, for all
predictions and images of a batch at once.

mmdet computes them prediction by prediction, matches image by image, and lets the host wait for the
GPU at each: forty times in a step of ten predictions and four images.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmcv.ops import point_sample
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.losses import CrossEntropyLoss, DiceLoss
from mmdet.models.task_modules.samplers import MaskPseudoSampler
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from kat_mm.transfer import constant, send

from .matching import MatchCosts
from .objects import Objects, Regions, by_image, things_of


def why_not_at_once(head: Mask2FormerHead) -> Iterator[str]:
    """What in a head is not as Mask2Former has it, so that its losses stay mmdet's."""
    if not head.train_cfg:
        yield 'no train_cfg'
        return
    if MatchCosts.of(head.assigner) is None:
        yield 'assigner'
    if type(head.sampler) is not MaskPseudoSampler:
        yield 'sampler'
    for name, kind, use_sigmoid in (
        ('loss_cls', CrossEntropyLoss, False),
        ('loss_mask', CrossEntropyLoss, True),
        ('loss_dice', DiceLoss, True),
    ):
        loss = getattr(head, name)
        if type(loss) is not kind or loss.use_sigmoid != use_sigmoid or loss.reduction != 'mean':
            yield name
        elif name == 'loss_cls' and (
            loss.use_mask
            or loss.ignore_index is not None
            or list(loss.class_weight or ()) != list(head.class_weight or ())
        ):
            yield name


class FastMask2FormerHead(Mask2FormerHead):
    """mmdet's ``Mask2FormerHead``: the same losses for the same points.

    What Mask2Former does not have, an assigner or losses of one's own, is left to mmdet.
    """

    def predictions(
        self, x: Sequence[Tensor], batch_data_samples: list
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What ``forward`` gives."""
        return self(x, batch_data_samples)

    def loss(self, x: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """Losses of data samples with instances and, for panoptic maps, ``gt_sem_seg``."""
        instances = [sample.gt_instances for sample in batch_data_samples]
        maps = {
            image: sample.gt_sem_seg.sem_seg
            for image, sample in enumerate(batch_data_samples)
            if self.num_stuff_classes and 'gt_sem_seg' in sample
        }
        if maps:
            first, last = self.num_things_classes, self.num_classes - 1
            regions = Regions(torch.cat(list(maps.values())), first, last)
        classes, mask_logits = self.predictions(x, batch_data_samples)
        labels, masks = things_of(instances)
        images = [image for image, own in enumerate(instances) for _ in range(len(own))]
        if maps:
            with_region, regions_labels, regions_masks = regions.found()
            images += [list(maps)[place] for place in with_region]
            labels = torch.cat([labels, regions_labels])
            masks = torch.cat([masks, regions_masks])
        return self.loss_by_feat(
            classes,
            mask_logits,
            by_image(images, labels, masks, len(instances)),
            [sample.metainfo for sample in batch_data_samples],
        )

    def loss_by_feat(
        self,
        all_cls_scores: Sequence[Tensor],
        all_mask_preds: Sequence[Tensor],
        batch_gt_instances: list,
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """Mask2Former's loss of each prediction; arguments as there."""
        if any(why_not_at_once(self)):
            return super().loss_by_feat(
                all_cls_scores, all_mask_preds, batch_gt_instances, batch_img_metas
            )
        return self._losses_at_once(all_cls_scores, all_mask_preds, batch_gt_instances)

    def _losses_at_once(
        self, classes: Sequence[Tensor], masks: Sequence[Tensor], instances: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """What mmdet computes prediction by prediction and image by image."""
        objects = Objects.of(instances)
        match_costs = MatchCosts.of(self.assigner)
        queries: list = [[]] * len(masks)
        if objects.masks.numel():
            pending = [
                match_costs(*prediction, objects, self.num_points)
                for prediction in zip(classes, masks, strict=True)
            ]
            queries = [costs.assign() for costs in pending]
        queries = send(queries, torch.long, masks[0].device)
        # mmdet counts an image without objects as one with one.
        total = sum(min(max(count, 1), self.num_queries) for count in objects.counts)
        total = reduce_mean(masks[0].new_full((1,), total, dtype=torch.float32))
        found = dict(
            loss_cls=self._class_losses(torch.stack(tuple(classes)).float(), objects, queries),
            **self._mask_losses(masks, objects, queries, total),
        )
        unbound = {name: losses.unbind() for name, losses in found.items()}
        last = len(masks) - 1
        return {
            f'd{index}.{name}' if index < last else name: losses[index]
            for index in (last, *range(last))
            for name, losses in unbound.items()
        }

    def _class_losses(self, classes: Tensor, objects: Objects, queries: Tensor) -> Tensor:
        """(P,) of logits (P, B, Q, classes + 1) where ``queries[p, i]`` is object i's, or Q."""
        number, images, count = classes.shape[:3]
        labels = objects.labels.new_full((number, images, count + 1), self.num_classes)
        prediction = torch.arange(number, device=queries.device)[:, None]
        labels[prediction, objects.image, queries] = objects.labels
        labels = labels[:, :, :count]
        weights = constant(tuple(self.class_weight), classes.dtype, classes.device)[labels]
        # The weights that its module has would be copied to the device, and waited for.
        losses = F.cross_entropy(classes.flatten(0, 2), labels.flatten(), reduction='none')
        losses = self.loss_cls.loss_weight * losses.view(labels.shape) * weights
        return _average(losses.flatten(1), weights.flatten(1).sum(1))

    def _mask_losses(
        self, masks: Sequence[Tensor], objects: Objects, queries: Tensor, total: Tensor
    ) -> dict[str, Tensor]:
        """(P,) each, of logits (B, Q, H', W') of P predictions."""
        rows = objects.image * self.num_queries + queries.clamp(max=self.num_queries - 1)
        own = torch.stack(
            [
                mask.flatten(0, 1).index_select(0, row)
                for mask, row in zip(masks, rows.unbind(), strict=True)
            ]
        )
        number, count = own.shape[:2]
        if not count:
            return dict(loss_mask=own.sum((1, 2, 3)), loss_dice=own.sum((1, 2, 3)))
        own = own.flatten(0, 1)[:, None].float()
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                own, None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            # Each object's mask at the points of all predictions, and these in front again.
            by_object = points.unflatten(0, (number, count)).transpose(0, 1).flatten(1, 2)
            targets = point_sample(objects.masks, by_object)[:, 0]
            targets = targets.unflatten(1, (number, -1)).transpose(0, 1).flatten(0, 1)
        logits = point_sample(own, points)[:, 0]
        of_points = self.loss_mask(logits.flatten(), targets.flatten(), reduction_override='none')
        of_objects = self.loss_dice(logits, targets, reduction_override='none')
        of_points, of_objects = (one.view(number, count, -1) for one in (of_points, of_objects))
        if max(objects.counts) > self.num_queries:
            found = (queries < self.num_queries)[:, :, None]
            of_points, of_objects = of_points * found, of_objects * found
        return dict(
            loss_mask=_average(of_points.flatten(1), total * self.num_points),
            loss_dice=_average(of_objects.flatten(1), total),
        )


def _average(losses: Tensor, divisor: Tensor) -> Tensor:
    """Of each row, as mmdet's losses do it."""
    return losses.sum(1) / (divisor + torch.finfo(torch.float32).eps)
