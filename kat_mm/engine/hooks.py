import random

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Make the random numbers of an iteration depend on (seed, iteration, rank) alone.

    A resumed run then draws the drop paths and dropouts that the run would have drawn that was
    never stopped. Augmentation has ``SeededInfiniteSampler`` for the same purpose.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        key = (runner.seed or 0, runner.iter, dist.get_rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class AverageLossHook(Hook):
    """Log losses as means over all processes; mmengine logs those of process 0."""

    # Before RuntimeInfoHook, which hands the losses to the logger.
    priority = 'HIGHEST'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not outputs or dist.get_world_size() == 1:
            return
        names = sorted(outputs)
        values = torch.stack([torch.as_tensor(outputs[name]).detach().float() for name in names])
        dist.all_reduce(values, op='mean')
        outputs.update(zip(names, values.unbind(), strict=True))


@HOOKS.register_module()
class Float32BoxesHook(Hook):
    """Keep the arithmetic of boxes in float32 where a detector of mmdet trains in half precision.

    mmdet computes anchors and boxes in the dtype of the heads' outputs, in which coordinates of a
    thousand pixels are rounded to whole pixels (float16) or to four (bfloat16); mmcv's RoIAlign
    does not know bfloat16 at all. With this hook the heads' convolutions stay in half precision,
    and their outputs, and the maps that RoIs are cut from, become float32.
    """

    def before_run(self, runner: Runner) -> None:
        keep_boxes_in_float32(runner.model)


def keep_boxes_in_float32(model: nn.Module) -> None:
    """Do what :class:`Float32BoxesHook` does, for a detector outside of a runner."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor

    for module in model.modules():
        if isinstance(module, BaseDenseHead | BBoxHead | FCNMaskHead):
            module.register_forward_hook(lambda _, inputs, outputs: _to_float32(outputs))
        elif isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, inputs: _to_float32(inputs))


def _to_float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(_to_float32, value))
    return value
