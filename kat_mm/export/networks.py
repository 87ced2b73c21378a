"""Parts of OpenMMLab's models as functions of tensors alone, which is what can be exported."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from kat_mm.backbones import KAT
from kat_mm.errors import UserError
from kat_mm.installed import is_installed

# Modules that no exporter or not every runtime computes rightly, by class name.
_REFUSED = {
    'MultiScaleDeformableAttention': 'deformable attention',
    'DeformConv2d': 'deformable convolution',
    'DeformConv2dPack': 'deformable convolution',
    'ModulatedDeformConv2d': 'deformable convolution',
    'ModulatedDeformConv2dPack': 'deformable convolution',
}


class Classifier(nn.Module):
    """Image (B, 3, H, W) to logits (B, classes) of an mmpretrain classifier."""

    task, inputs, outputs = 'classification', ('image',), ('logits',)
    postprocessing: dict = {}

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.head(self.model.extract_feat(image))


class Segmenter(nn.Module):
    """Image (B, 3, H, W) to logits (B, classes, h, w) of an mmseg segmenter, without windows.

    They are those of the head, at its own resolution: to resize them to the image, in one step and
    whatever its size, is left to the caller, as mmseg leaves it to what comes behind the head.
    """

    task, inputs, outputs = 'segmentation', ('image',), ('logits',)

    def __init__(self, model: nn.Module):
        super().__init__()
        _check_segmenter(model)
        self.model = model
        head = model.decode_head
        _free_upsamples(head)
        self.postprocessing = dict(align_corners=bool(head.align_corners))
        if head.out_channels == 1:
            self.postprocessing['threshold'] = float(head.threshold)

    def forward(self, image: Tensor) -> Tensor:
        return self.model.decode_head(self.model.extract_feat(image))


class QuerySegmenter(nn.Module):
    """Image (B, 3, H, W) to the classes and masks of EoMT's queries.

    ``class_logits`` are (B, Q, classes + 1), the last for no object, and ``mask_logits``
    (B, Q, h, w), at a stride of about 4. ``task`` is 'segmentation', 'panoptic' or 'instance'.
    """

    inputs, outputs = ('image',), ('class_logits', 'mask_logits')

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        if hasattr(model, 'decode_head'):
            self.task, self.head = 'segmentation', model.decode_head
            self.postprocessing = dict(align_corners=False)
        else:
            cfg, self.head = model.panoptic_fusion_head.test_cfg, model.panoptic_head
            self.task = 'panoptic' if cfg.get('panoptic_on', True) else 'instance'
            self.postprocessing = dict[str, Any](
                num_things=self.head.num_things_classes,
                object_threshold=cfg.get('object_mask_thr', 0.8),
                overlap_threshold=cfg.get('iou_thr', 0.8),
                filter_low_score=cfg.get('filter_low_score', False),
                max_per_image=cfg.get('max_per_image', 100),
            )
        self.postprocessing['stride'] = self.head.patch_size / 2 ** len(self.head.upscale)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        classes, masks = self.head(self.model.extract_feat(image))
        return classes[-1], masks[-1]


class Features(nn.Module):
    """Image (B, 3, H, W) to the maps of backbone and neck."""

    task, inputs = 'features', ('image',)
    postprocessing: dict = {}

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
        self.outputs = tuple(f'level{i}' for i in range(len(maps)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.extract_feat(image))


class Preprocessed(nn.Module):
    """A network behind its normalisation: it takes RGB pixels from 0 to 255, uint8.

    Args:
        network: What takes normalised images.
        mean: Of each channel, in the network's order.
        std: The same.
        bgr: Whether the network's order is blue, green, red.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], bgr: bool):
        super().__init__()
        self.network = network
        for name in ('task', 'inputs', 'outputs', 'postprocessing'):
            setattr(self, name, getattr(network, name))
        self.bgr = bgr
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1))

    def forward(self, image: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        image = image.float()
        if self.bgr:
            image = image.flip(1)
        return self.network((image - self.mean) / self.std, *others)


def make_network(model: nn.Module, features: bool = False) -> nn.Module:
    """The function of tensors that stands for a model of OpenMMLab.

    Args:
        model: A classifier, segmenter, EoMT or two-stage detector.
        features: Backbone and neck alone. Default: False.

    Returns:
        A module with ``task``, the names of its ``inputs`` and ``outputs``, and what its
        ``postprocessing`` needs to know.

    Raises:
        UserError: The model has a part that does not export, which is named.
    """
    for name, module in model.named_modules():
        what = _REFUSED.get(type(module).__name__)
        if what:
            raise UserError(
                f'model.{name} is {what} ({type(module).__name__}), which does not export: '
                'runtimes compute its sampling wrongly or not at all'
            )
        if isinstance(module, KAT) and module.patch_embed.in_channels != 3:
            raise UserError(
                f'model.{name} has in_channels={module.patch_embed.in_channels}; models of RGB '
                'images export'
            )
    if features:
        return Features(model)
    if _has_eomt(model):
        return QuerySegmenter(model)
    if hasattr(model, 'encode_decode'):
        return Segmenter(model)
    if hasattr(model, 'roi_head') and not hasattr(model, 'semantic_head'):
        from .detector import Detector

        return Detector(model)
    if hasattr(model, 'head') and isinstance(getattr(model.head, 'fc', None), nn.Module | None):
        return Classifier(model)
    raise UserError(
        f'{type(model).__name__} does not export whole: classifiers, segmenters, EoMT and '
        'two-stage detectors (Faster, Mask and Cascade R-CNN) do; --features exports its backbone '
        'and neck'
    )


def _has_eomt(model: nn.Module) -> bool:
    head = getattr(model, 'panoptic_head', None) or getattr(model, 'decode_head', None)
    if head is None or not is_installed('mmdet'):
        return False
    from kat_mm.heads import EoMTHead

    return isinstance(head, EoMTHead)


def _free_upsamples(head: nn.Module) -> None:
    """Let mmseg's Upsample multiply sizes in the program, which it fixes as whole numbers."""
    from mmseg.models.utils import Upsample

    for module in head.modules():
        if type(module) is Upsample and not module.size:
            module.forward = functools.partial(
                nn.functional.interpolate,
                scale_factor=module.scale_factor,
                mode=module.mode,
                align_corners=module.align_corners,
            )


def _check_segmenter(model: nn.Module) -> None:
    """Refuse what does more than resize the logits of one head."""
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    for part, base, names in (
        (model, EncoderDecoder, ('encode_decode', 'predict', 'inference')),
        (model.decode_head, BaseDecodeHead, ('predict', 'predict_by_feat')),
    ):
        for name in names:
            if getattr(type(part), name, None) is not getattr(base, name):
                raise UserError(
                    f'{type(part).__name__} has a method {name} of its own, which does not export; '
                    "segmenters of mmseg's EncoderDecoder and EoMT do"
                )
