"""mmdet's two-stage detectors and heads with queries, which do not keep the GPU waiting.

A detector's own modules get classes that compute the same: their names, parameters, hooks and
configs stay, and so does every other model. What the classes do not know (another sampler, another
loss) keeps mmdet's.
"""

import logging
from collections.abc import Iterator

import mmdet.models as mm
from mmdet.models.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss
from mmdet.models.roi_heads.bbox_heads import (
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.assigners import BboxOverlaps2D, MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import RandomSampler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kat_mm.losses import dino, mask2former

from .detection_masks import FastDetDataPreprocessor, FastFCNMaskHead
from .detection_queries import FastMaskFormerFusionHead
from .detection_roi import FastRoIExtractor, FastRoIHead
from .detection_rpn import FastRPNHead

_logger = logging.getLogger(__name__)

_BOX_HEADS = (BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)


class _WithoutCopies:
    """mmdet copies the data samples, with masks of full size, to give the RPN labels of zero."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        x = self.extract_feat(batch_inputs)
        # FastRPNHead reads no labels.
        losses, proposals = self.rpn_head.loss_and_predict(
            x,
            batch_data_samples,
            proposal_cfg=self.train_cfg.get('rpn_proposal', self.test_cfg.rpn),
        )
        losses.update(self.roi_head.loss(x, proposals, batch_data_samples))
        return losses


class FastTwoStageDetector(_WithoutCopies, mm.TwoStageDetector):
    pass


class FastFasterRCNN(_WithoutCopies, mm.FasterRCNN):
    pass


class FastMaskRCNN(_WithoutCopies, mm.MaskRCNN):
    pass


class FastCascadeRCNN(_WithoutCopies, mm.CascadeRCNN):
    pass


_DETECTORS = {kind.__bases__[1]: kind for kind in _WithoutCopies.__subclasses__()}


def use_fast_heads(model: nn.Module) -> list[str]:
    """Let the heads of a detector of mmdet compute without waiting for the GPU.

    Args:
        model: A detector, not wrapped; it is changed in place, where its parts are those known.

    Returns:
        Names of the parts that were changed.
    """
    changed = []
    for name, module in model.named_modules():
        for kind, fast, reasons in (
            (mm.RPNHead, FastRPNHead, _against_rpn),
            (mm.StandardRoIHead, FastRoIHead, _against_roi),
            (mm.SingleRoIExtractor, FastRoIExtractor, _against_extractor),
            (mm.FCNMaskHead, FastFCNMaskHead, _against_nothing),
            (mm.DINOHead, dino.FastDINOHead, dino.why_not_at_once),
            (mm.Mask2FormerHead, mask2former.FastMask2FormerHead, mask2former.why_not_at_once),
            (mm.MaskFormerFusionHead, FastMaskFormerFusionHead, _against_nothing),
            (mm.DetDataPreprocessor, FastDetDataPreprocessor, _against_nothing),
        ):
            if type(module) is not kind:
                continue
            against = list(reasons(module))
            if against:
                _logger.info("Detection: %s keeps mmdet's way: %s", name, ', '.join(against))
            else:
                module.__class__ = fast
                changed.append(name)
    fast = _DETECTORS.get(type(model))
    if fast is not None and isinstance(getattr(model, 'rpn_head', None), FastRPNHead):
        model.__class__ = fast
    if changed:
        _logger.info('Detection: without waiting for the GPU: %s', ', '.join(changed))
    return changed


def _against_rpn(head: mm.RPNHead) -> Iterator[str]:
    generator, loss = head.prior_generator, head.loss_cls
    if type(generator) is not AnchorGenerator or generator.use_box_type:
        yield 'anchor_generator'
    if type(head.bbox_coder) is not DeltaXYWHBBoxCoder or not _is_plain(head.bbox_coder):
        yield 'bbox_coder'
    if not (_is_plain_cross_entropy(loss) and loss.use_sigmoid):
        yield 'loss_cls'
    yield from _against_boxes(head)
    if head.train_cfg:
        yield from _against_sampling(head.assigner, head.sampler)
        if head.sampler.add_gt_as_proposals:
            yield 'sampler.add_gt_as_proposals'


def _against_roi(head: mm.StandardRoIHead) -> Iterator[str]:
    if not head.train_cfg:
        yield 'no train_cfg'
        return
    yield from _against_sampling(head.bbox_assigner, head.bbox_sampler)
    if head.with_shared_head:
        yield 'shared_head'
    box = head.bbox_head
    if type(box) not in _BOX_HEADS or not (box.with_cls and box.with_reg):
        yield 'bbox_head'
        return
    if type(box.bbox_coder) is not DeltaXYWHBBoxCoder or not _is_plain(box.bbox_coder):
        yield 'bbox_head.bbox_coder'
    loss = box.loss_cls
    if not _is_plain_cross_entropy(loss) or loss.use_sigmoid or loss.use_mask:
        yield 'bbox_head.loss_cls'
    yield from _against_boxes(box)
    if any(isinstance(module, _BatchNorm) for module in box.modules()):
        yield 'bbox_head with batch norm'  # which would see the slots that are not taken
    if head.with_mask and type(head.mask_head) not in (FCNMaskHead, FastFCNMaskHead):
        yield 'mask_head'


def _against_extractor(extractor: mm.SingleRoIExtractor) -> Iterator[str]:
    for layer in extractor.roi_layers:
        if type(layer).__name__ != 'RoIAlign':
            yield 'roi_layer.type'
        elif layer.sampling_ratio or not layer.aligned or layer.pool_mode != 'avg':
            yield 'roi_layer'
        elif layer.use_torchvision:
            yield 'roi_layer.use_torchvision'
        else:
            continue
        return


def _against_nothing(_: nn.Module) -> Iterator[str]:
    return iter(())


def _against_boxes(head: nn.Module) -> Iterator[str]:
    loss = head.loss_bbox
    if head.reg_decoded_bbox:
        yield 'reg_decoded_bbox'
    if type(loss) not in (L1Loss, SmoothL1Loss) or loss.reduction != 'mean':
        yield 'loss_bbox'


def _against_sampling(assigner, sampler) -> Iterator[str]:
    if (
        type(assigner) is not MaxIoUAssigner
        or type(assigner.iou_calculator) is not BboxOverlaps2D
        or not isinstance(assigner.neg_iou_thr, float)
        or assigner.perm_repeat_gt_cfg is not None
        or assigner.ignore_iof_thr > 0
        or (assigner.match_low_quality and not assigner.gt_max_assign_all)
    ):
        yield 'assigner'
    if type(sampler) is not RandomSampler:
        yield 'sampler'


def _is_plain_cross_entropy(loss: nn.Module) -> bool:
    return (
        type(loss) is CrossEntropyLoss
        and loss.reduction == 'mean'
        and loss.class_weight is None
        and loss.ignore_index is None
    )


def _is_plain(coder: DeltaXYWHBBoxCoder) -> bool:
    return not (coder.add_ctr_clamp or coder.use_box_type)
