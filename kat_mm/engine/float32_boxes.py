from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn


class Float32BoxesHook(Hook):
    """Keep the arithmetic of boxes in float32 where a detector of mmdet trains in half precision.

    mmdet computes anchors and boxes in the dtype of the heads' outputs, in which coordinates of a
    thousand pixels are rounded to whole pixels (float16) or to four (bfloat16); mmcv's RoIAlign
    and focal loss do not know bfloat16 at all, and its deformable attention takes a slow way round.
    With this hook the heads' convolutions stay in half precision, and their outputs, the maps that
    RoIs are cut from, and those that deformable attention samples, become float32.
    """

    def before_run(self, runner: Runner) -> None:
        keep_boxes_in_float32(runner.model)


def keep_boxes_in_float32(model: nn.Module) -> None:
    """Do what :class:`Float32BoxesHook` does, for a detector outside of a runner."""
    from mmcv.ops import MultiScaleDeformableAttention
    from mmdet.models.dense_heads import DETRHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor

    gives = []
    for module in model.modules():
        if isinstance(module, BaseDenseHead | BBoxHead | FCNMaskHead | DETRHead):
            if not getattr(module, 'gives_float32', False):
                gives.append(module)
        if isinstance(module, DETRHead):  # the transformer calls them too, for its proposals
            for name in ('cls_branches', 'reg_branches'):
                gives += getattr(module, name, ())
        elif isinstance(module, MultiScaleDeformableAttention):
            gives.append(module.value_proj)
        elif isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, inputs: _to_float32(inputs))
    for module in gives:
        module.register_forward_hook(lambda _, inputs, outputs: _to_float32(outputs))


def _to_float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(_to_float32, value))
    return value
