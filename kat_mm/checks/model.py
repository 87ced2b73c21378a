"""The model of a config, before the runner makes folders and logs."""

import copy
import re
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.backbones.pretrained import is_pretrained
from kat_mm.errors import UserError, config_errors

# Pixels of the image that a model is tried with: any size does.
_SIDE = 64
# What PyTorch says of channels that do not fit.
_CHANNELS = re.compile(
    r'to have (\d+) channels, but got (\d+) channels|mat1 and mat2 shapes cannot be multiplied'
    r'|normalized_shape|number of channels in input'
)
# What it says of vectors in the place of maps.
_MAPS = re.compile(r'must be a map|rank 4 tensor|4D|spatial dimension')


def build_model(cfg: Config) -> nn.Module:
    """Build the model for the checks, before the runner makes folders and logs.

    Raises:
        UserError: The config of the model does not fit.
    """
    if not cfg.get('model'):
        raise UserError('the config has no model')
    with config_errors():
        return MODELS.build(copy.deepcopy(cfg.model))


def check_initialisers(model: nn.Module) -> None:
    """Build what the ``init_cfg`` of each module of a model names, as a run will.

    Raises:
        UserError: One is not registered, or has arguments that it does not take.
    """
    for name, module in model.named_modules():
        given = getattr(module, 'init_cfg', None) or []
        for cfg in [given] if isinstance(given, dict) else given:
            if isinstance(module, KAT) and is_pretrained(cfg):  # read by itself
                continue
            with config_errors(f'init_cfg of model.{name}'.rstrip('.')):
                arguments = {key: value for key, value in cfg.items() if key != 'override'}
                WEIGHT_INITIALIZERS.build(arguments)


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
    except UserError:
        raise
    except Exception as error:
        _check_out_type(model, entered[-1], error)
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


def _check_out_type(model: nn.Module, part: str, error: Exception) -> None:
    """Tell of the backbone's vectors, if a part failed that may have needed its maps."""
    for name, module in model.named_modules():
        is_vector = isinstance(module, KAT) and module.out_type != 'featmap'
        if is_vector and not part.startswith(name) and _MAPS.search(str(error)):
            raise UserError(
                f'model.{part} needs feature maps, and model.{name}.out_type={module.out_type!r} '
                f"gives it vectors. Set model.{name}.out_type='featmap'"
            ) from error


def _check_strides(model: nn.Module, features: Sequence[torch.Tensor]) -> None:
    """Refuse feature maps of other strides than the anchors and boxes of a detector count with."""
    heads = ((name, getattr(model, name, None)) for name in ('rpn_head', 'bbox_head'))
    counted = {
        name: head.prior_generator.strides
        for name, head in heads
        if hasattr(head, 'prior_generator')
    }
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = getattr(getattr(model, 'roi_head', None), name, None)
        for one in extractor if isinstance(extractor, nn.ModuleList) else [extractor]:
            if hasattr(one, 'featmap_strides'):
                counted[f'roi_head.{name}'] = one.featmap_strides
    sides = [feature.shape[-1] for feature in features]
    for name, strides in counted.items():
        strides = [one[0] if isinstance(one, Sequence) else one for one in strides]
        for side, stride in zip(sides, strides, strict=False):
            # Rounding apart: of a padded image, and of a map smaller than a pixel of it.
            if side != max(1, _SIDE // stride) and not 2 / 3 < side * stride / _SIDE < 3 / 2:
                raise UserError(
                    f'model.{name} counts with strides {strides}, and its feature maps have '
                    f'{[_SIDE / side for side in sides]}. The maps of a KAT all have that of its '
                    'patches: make others of the last one in a neck, such as SimpleFeaturePyramid'
                )


def _run_parts(model: nn.Module) -> None:
    if not hasattr(model, 'extract_feat'):
        return
    device = next(model.parameters()).device
    # Two images: group normalisation refuses one value for each group.
    features = model.extract_feat(torch.zeros(2, 3, _SIDE, _SIDE, device=device))
    if hasattr(model, 'rpn_head') or hasattr(model, 'bbox_head'):
        _check_strides(model, features)
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
