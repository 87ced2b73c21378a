"""The model of a config, before the runner makes folders and logs."""

import copy
import inspect
import math
import re
from collections.abc import Iterator, Sequence

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.backbones.pretrained import is_pretrained
from kat_mm.checks.names import correct
from kat_mm.errors import UserError, config_errors

# What PyTorch says of channels that do not fit.
_CHANNELS = re.compile(
    r'to have (\d+) channels, but got (\d+) channels|mat1 and mat2 shapes cannot be multiplied'
    r'|normalized_shape|number of channels in input'
)
# What it says of vectors in the place of maps.
_MAPS = re.compile(r'must be a map|rank 4 tensor|4D|spatial dimension|should be at least 3')

# What Python says of an argument that a class does not take.
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
# What parts raise that get other inputs than they were built for.
_MISFITS = (AssertionError, AttributeError, IndexError, TypeError, ValueError)


def build_model(cfg: Config) -> nn.Module:
    """Build the model for the checks, before the runner makes folders and logs.

    Raises:
        UserError: The config of the model does not fit.
    """
    if not cfg.get('model'):
        raise UserError('the config has no model')
    with config_errors():
        try:
            return MODELS.build(copy.deepcopy(cfg.model))
        except TypeError as error:
            if "argument 'pretrained'" in str(error) and cfg.model.get('pretrained'):
                raise UserError(
                    f'model.pretrained={cfg.model.pretrained!r} is what the config of another '
                    'backbone starts from. Leave it out, and give the start of this one as '
                    "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
                ) from error
            _explain_unexpected(error, cfg.model)
            raise


def _explain_unexpected(error: TypeError, model: dict) -> None:
    """Say which part of a model's config has the argument that a class does not take.

    Raises:
        UserError: In place of ``error``, where that is what it says.
    """
    found = _UNEXPECTED.search(str(error))
    if found is None:
        return
    raised_by, key = found.groups()
    parts = []
    with MODELS.switch_scope_and_registry(None) as registry:
        for where, part in _parts('model', model):
            if key not in part:
                continue
            kind = part['type']
            cls = registry.get(kind) if isinstance(kind, str) else kind
            if raised_by in [base.__name__ for base in inspect.getmro(cls or object)]:
                parts.append((where, part[key], cls))
    if len(parts) != 1:  # a head of several, say
        return
    where, value, cls = parts[0]
    known = [
        name
        for base in inspect.getmro(cls)
        if '__init__' in vars(base)
        for name in inspect.signature(base.__init__).parameters
    ]
    near = correct(key, known)
    advice = (
        f'did you mean {near}?'
        if near
        else 'if it is left of a part of another type, write _delete_=True in the new one'
    )
    raise UserError(
        f'{where} has {key}={value!r}, which {cls.__name__} does not take; {advice}'
    ) from error


def _parts(where: str, cfg: object) -> Iterator[tuple[str, dict]]:
    """All dicts with a type in a config, and how they are written."""
    if isinstance(cfg, dict):
        if cfg.get('type'):
            yield where, cfg
        for key, value in cfg.items():
            yield from _parts(f'{where}.{key}', value)
    elif isinstance(cfg, list | tuple):
        for index, value in enumerate(cfg):
            yield from _parts(f'{where}[{index}]', value)


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
    """Run the parts of a model that holds a KAT on a small image, and refuse what does not fit.

    Args:
        model: A classifier, detector or segmentor.

    Raises:
        UserError: A part gets another number of channels or of maps than it was built for, vectors
            in the place of maps, or maps of other strides than it counts with.
    """
    backbone = next((module for module in model.modules() if isinstance(module, KAT)), None)
    if backbone is None:
        return
    _check_image_channels(model, backbone)
    _check_crops(model, backbone)
    training, entered = model.training, []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            _run_parts(model.eval(), backbone)
    except UserError:
        raise
    except Exception as error:
        _check_out_type(model, entered[-1], error)
        first = next(iter(str(error).splitlines()), type(error).__name__)
        if _CHANNELS.search(str(error)):
            raise UserError(
                f'the parts of the model do not fit: model.{entered[-1]} gets another number of '
                f'channels than it was built for ({first}). Compare the in_channels in its config '
                'with the channels of what comes before it'
            ) from error
        # Heads that need more than features, and what fails in an operator, the run tells.
        if isinstance(error, _MISFITS) and 'required positional argument' not in str(error):
            raise UserError(
                f'the parts of the model do not fit: model.{entered[-1]} fails on what comes '
                f'before it ({first}). Compare the number of maps that it '
                f'is built for with out_indices={backbone.out_indices} of the backbone'
                + (
                    ', whose outputs are maps with class tokens: output_cls_token=True'
                    if backbone.output_cls_token
                    else ''
                )
            ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


def _check_image_channels(model: nn.Module, backbone: KAT) -> None:
    """Refuse images that are normalised with another number of channels than the backbone takes."""
    mean, channels = (
        getattr(getattr(model, 'data_preprocessor', None), 'mean', None),
        backbone.patch_embed.in_channels,
    )
    if isinstance(mean, torch.Tensor) and mean.numel() not in (1, channels):
        raise UserError(
            f'in_channels={channels} of the backbone, and mean and std of model.data_preprocessor '
            f'are those of {mean.numel()} channels. Give it one value for all channels, or none '
            'and normalise in the pipeline'
        )


def _check_crops(model: nn.Module, backbone: KAT) -> None:
    """Refuse a segmentor's crops of parts of patches: its maps would be resized to less than these.

    A backbone pads such crops, and labels lie beside their pixels then, by up to a patch.
    """
    if not hasattr(model, 'decode_head'):
        return
    patch, test_cfg = backbone.patch_embed.patch_size, getattr(model, 'test_cfg', None) or {}
    for name, size in (
        ('data_preprocessor.size', getattr(model.data_preprocessor, 'size', None)),
        ('test_cfg.crop_size', test_cfg.get('mode') == 'slide' and test_cfg.get('crop_size')),
    ):
        if isinstance(size, Sequence) and any(side % patch for side in size):
            whole = tuple(-(-side // patch) * patch for side in size)
            raise UserError(
                f'model.{name}={tuple(size)} is no multiple of patch_size={patch} of the backbone, '
                f'so that maps would not lie where the labels do. Choose {whole}, to which '
                'data_preprocessor.size pads smaller crops and their labels'
            )


def _check_out_type(model: nn.Module, part: str, error: Exception) -> None:
    """Tell of the backbone's vectors, if a part failed that may have needed its maps.

    And of its maps, where the head of a classifier failed on them.
    """
    for name, module in model.named_modules():
        is_map = isinstance(module, KAT) and module.out_type == 'featmap'
        if is_map and part.startswith('head.') and getattr(model, 'neck', None) is None:
            raise UserError(
                f'model.{part} needs vectors, and model.{name}.out_type={module.out_type!r} gives '
                f"it maps. Set model.{name}.out_type='cls_token' or 'avg_featmap'"
            ) from error
        is_vector = isinstance(module, KAT) and module.out_type != 'featmap'
        if is_vector and not part.startswith(name) and _MAPS.search(str(error)):
            raise UserError(
                f'model.{part} needs feature maps, and model.{name}.out_type={module.out_type!r} '
                f"gives it vectors. Set model.{name}.out_type='featmap'"
            ) from error


def _check_class_tokens(name: str, head: nn.Module, features: Sequence) -> None:
    """Refuse maps without class tokens for mmseg's DPTHead, which takes two images for them."""
    if hasattr(head, 'reassemble_blocks') and isinstance(features[0], torch.Tensor):
        raise UserError(
            f'model.{name} reads maps with their class tokens, and gets maps alone. Set '
            'model.backbone.output_cls_token=True'
        )


def _counted_strides(model: nn.Module) -> Iterator[tuple[str, Sequence, Sequence[int] | None]]:
    """The strides that parts of a model count with, each with the name of the part.

    Behind them the maps that they are of, for heads to which those of one map to another count
    alone; None for anchors and boxes, which are in pixels of the image.
    """
    for name, head in _heads(model):
        if hasattr(head, 'prior_generator'):
            yield name, head.prior_generator.strides, None
        if hasattr(head, 'feature_strides'):
            yield name, head.feature_strides, head.in_index
        if hasattr(getattr(head, 'pixel_decoder', None), 'strides'):
            strides = head.pixel_decoder.strides
            yield f'{name}.pixel_decoder', strides, range(len(strides))
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = getattr(getattr(model, 'roi_head', None), name, None)
        for one in extractor if isinstance(extractor, nn.ModuleList) else [extractor]:
            if hasattr(one, 'featmap_strides'):
                yield f'roi_head.{name}', one.featmap_strides, None


def _check_strides(model: nn.Module, features: Sequence, image_side: int) -> None:
    """Refuse feature maps of other strides than anchors, boxes and heads count with."""
    for name, strides, indices in _counted_strides(model):
        strides = [one[0] if isinstance(one, Sequence) else one for one in strides]
        maps = features if indices is None else [features[i] for i in indices if i < len(features)]
        sides = [feature.shape[-1] for feature in maps]
        more = len(sides) - len(strides)
        if indices is None and (more < 0 or (more and name in ('rpn_head', 'bbox_head'))):
            raise UserError(
                f'model.{name} counts with {len(strides)} strides, {strides}, and gets '
                f'{len(sides)} maps: they are to be as many, such as by num_outs of the neck'
            )
        unit = 1 if indices is None else image_side / sides[0] / strides[0]
        for side, stride in zip(sides, (unit * stride for stride in strides), strict=False):
            if abs(side * stride - image_side) >= stride:  # rounding is less than a pixel of it
                raise UserError(
                    f'model.{name} counts with strides {strides}, and its feature maps have '
                    f'{[image_side / side for side in sides]}. The maps of a KAT all have that of '
                    'its patches: make others of the last one in a neck, such as '
                    'SimpleFeaturePyramid, which makes 4, 8, 16 and 32 of patch_size=16'
                )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    names = 'decode_head', 'auxiliary_head', 'panoptic_head', 'rpn_head', 'bbox_head', 'head'
    for name in names:
        part = getattr(model, name, None)
        for head in part if isinstance(part, nn.ModuleList) else [part]:
            if isinstance(head, nn.Module):
                yield name, head


def _run_parts(model: nn.Module, backbone: KAT) -> None:
    if not hasattr(model, 'extract_feat'):
        return
    device = next(model.parameters()).device
    # About 64 pixels, and a power of two in patches, so that strides come out whole.
    patch, channels = backbone.patch_embed.patch_size, backbone.patch_embed.in_channels
    side = patch * 2 ** max(2, round(math.log2(64 / patch)))
    # Two images: group normalisation refuses one value for each group.
    features = model.extract_feat(torch.zeros(2, channels, side, side, device=device))
    if all(isinstance(feature, torch.Tensor) and feature.dim() == 4 for feature in features):
        _check_strides(model, features, side)
    for name, head in _heads(model):
        _check_class_tokens(name, head, features)
        if hasattr(head, 'pixel_decoder'):  # of what else such a head needs, the run has more
            head.pixel_decoder(features)
        elif name != 'panoptic_head' and type(head).forward is not nn.Module.forward:
            head(features)
    if hasattr(model, 'roi_head'):
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        box = torch.tensor([[0.0, 0.0, side / 2, side / 2]], device=device)
        proposals = [InstanceData(bboxes=box) for _ in range(2)]
        samples = [DetDataSample(metainfo=dict(img_shape=(side, side))) for _ in range(2)]
        model.roi_head(features, proposals, samples)
