"""Two-stage detectors whose heads have the same work whatever the weights: proposals are given."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mmdet.models import RPNHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kat_mm.dense.detection_rpn import FastRPNHead, Proposals


class _Fixed:
    """An RPN that does its work, but hands on the proposals of :meth:`fix`.

    Attributes:
        watch: Makes a context for a part of the work, by its name.
    """

    watch: Callable[[str], AbstractContextManager] = nullcontext

    def fix(self, proposals: list[Tensor]) -> None:
        """Hand on these: (n, 4) for each image of a batch."""
        device = next(self.parameters()).device
        self.boxes = torch.stack(proposals).to(device)
        self.scores = torch.ones(self.boxes.shape[:2], device=device)

    def loss_by_feat(self, *args, **kwargs) -> dict:
        with self.watch('RPN: losses'):
            return super().loss_by_feat(*args, **kwargs)

    def predict_by_feat(self, *args, **kwargs) -> Sequence[InstanceData]:
        with self.watch('RPN: proposals'):
            super().predict_by_feat(*args, **kwargs)
            return self.fixed()

    def fixed(self) -> Sequence[InstanceData]:
        """The given proposals, as mmdet's heads take them."""
        return [
            InstanceData(bboxes=boxes.clone(), scores=scores.clone())
            for boxes, scores in zip(self.boxes, self.scores, strict=True)
        ]


@MODELS.register_module()
class FixedRPNHead(_Fixed, RPNHead):
    """mmdet's RPN with given proposals."""


@MODELS.register_module()
class FixedFastRPNHead(_Fixed, FastRPNHead):
    """Ours, which hands on tensors in training."""

    def fixed(self) -> Sequence[InstanceData]:
        if not self.training:
            return super().fixed()
        return Proposals(self.boxes, self.scores, self.scores > 0)


def random_proposals(batch: dict, size: int | tuple[int, int], count: int) -> list[Tensor]:
    """(count, 4) for each image: a quarter a little off the objects, the others anywhere."""
    height, width = (size, size) if isinstance(size, int) else size
    sides_of_image = torch.tensor([width, height])
    generator = torch.Generator().manual_seed(0)
    proposals = []
    for sample in batch['data_samples']:
        objects = sample.gt_instances.bboxes.tensor
        near = objects.repeat(count // (4 * len(objects)) + 1, 1)[: count // 4]
        sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + 0.1 * sides * (torch.rand(near.shape, generator=generator) - 0.5)
        corner = 0.7 * sides_of_image * torch.rand(count - len(near), 2, generator=generator)
        extent = sides_of_image * (0.02 + 0.28 * torch.rand(len(corner), 2, generator=generator))
        far = torch.cat([corner, corner + extent], dim=1)
        boxes = torch.cat([near, far]).clamp(min=0)
        proposals.append(boxes.minimum(sides_of_image.repeat(2).to(boxes)))
    return proposals


def fix_heads(model: nn.Module, proposals: list[Tensor]) -> None:
    """Give the heads of all models the same work; in inference each box is of the first class.

    Args:
        model: A detector with one of the RPN heads above, on its device.
        proposals: Of :func:`random_proposals`.
    """
    model.rpn_head.fix(proposals)
    head = model.roi_head.bbox_head
    with torch.no_grad():
        for layer in (head.fc_cls, head.fc_reg):
            layer.weight.zero_()
            layer.bias.zero_()
        head.fc_cls.bias[1:] = -10
