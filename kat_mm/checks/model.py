"""The model of a config, before the runner makes folders and logs."""

import copy
import re

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.errors import UserError, config_errors

# Pixels of the image that a model is tried with: any size does.
_SIDE = 64
# What PyTorch says of channels that do not fit.
_CHANNELS = re.compile(
    r'to have (\d+) channels, but got (\d+) channels|mat1 and mat2 shapes cannot be multiplied'
    r'|normalized_shape|number of channels in input'
)


def build_model(cfg: Config) -> nn.Module:
    """Build the model for the checks, before the runner makes folders and logs.

    Raises:
        UserError: The config of the model does not fit.
    """
    if not cfg.get('model'):
        raise UserError('the config has no model')
    with config_errors():
        return MODELS.build(copy.deepcopy(cfg.model))


def check_channels(model: nn.Module) -> None:
    """Run the parts of a model that holds a KAT on a small image, and refuse channels that differ.

    Args:
        model: A classifier, detector or segmentor.

    Raises:
        UserError: A part gets another number of channels than it was built for.
    """
    if not any(isinstance(module, KAT) for module in model.modules()):
        return
    training, entered = model.training, []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            _run_parts(model.eval())
    except Exception as error:
        # What fails for another reason, as in heads that need more than features, the run tells.
        if _CHANNELS.search(str(error)):
            raise UserError(
                f'the parts of the model do not fit: model.{entered[-1]} gets another number of '
                f'channels than it was built for ({str(error).splitlines()[0]}). Compare the '
                'in_channels in its config with the channels of what comes before it'
            ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


def _run_parts(model: nn.Module) -> None:
    if not hasattr(model, 'extract_feat'):
        return
    device = next(model.parameters()).device
    # Two images: group normalisation refuses one value for each group.
    features = model.extract_feat(torch.zeros(2, 3, _SIDE, _SIDE, device=device))
    for name in ('decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head', 'head'):
        part = getattr(model, name, None)
        for head in part if isinstance(part, nn.ModuleList) else [part]:
            if isinstance(head, nn.Module) and type(head).forward is not nn.Module.forward:
                head(features)
    if hasattr(model, 'roi_head'):
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        box = torch.tensor([[0.0, 0.0, _SIDE / 2, _SIDE / 2]], device=device)
        proposals = [InstanceData(bboxes=box) for _ in range(2)]
        samples = [DetDataSample(metainfo=dict(img_shape=(_SIDE, _SIDE))) for _ in range(2)]
        model.roi_head(features, proposals, samples)
