"""Parts of OpenMMLab's models as functions of tensors alone, which is what can be exported."""

import torch
from torch import Tensor, nn

from kat_mm.errors import UserError

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

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.head(self.model.extract_feat(image))


class Segmenter(nn.Module):
    """Image (B, 3, H, W) to logits (B, classes, H, W) of an mmseg segmenter, without windows."""

    task, inputs, outputs = 'segmentation', ('image',), ('logits',)

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        shape = tuple(image.shape[2:])
        return self.model.encode_decode(image, [dict(img_shape=shape, pad_shape=shape)])


class Features(nn.Module):
    """Image (B, 3, H, W) to the maps of backbone and neck."""

    task, inputs = 'features', ('image',)

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
        model: A classifier, segmenter or two-stage detector.
        features: Backbone and neck alone. Default: False.

    Returns:
        A module with ``task``, and the names of its ``inputs`` and ``outputs``.

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
    if features:
        return Features(model)
    if hasattr(model, 'encode_decode'):
        return Segmenter(model)
    if hasattr(model, 'roi_head'):
        from .detector import Detector

        return Detector(model)
    if hasattr(model, 'head') and isinstance(getattr(model.head, 'fc', None), nn.Module | None):
        return Classifier(model)
    raise UserError(
        f'{type(model).__name__} does not export whole: classifiers, segmenters and two-stage '
        'detectors (Faster, Mask and Cascade R-CNN) do; --features exports its backbone and neck'
    )
