"""Random images for a model of any task, with what its library wants to know of them."""

import torch
from torch import Tensor, nn

from kat_mm.backbones import KAT


def make_inputs(
    model: nn.Module, batch: int, size: tuple[int, int], device: str | torch.device = 'cpu'
) -> tuple[Tensor, list | None]:
    """Normalised images (batch, C, H, W) of noise, and data samples where the library needs them.

    Args:
        model: A classifier, detector or segmenter, of images of three channels or, with a KAT, of
            as many as it takes.
        batch: Number of images.
        size: Height and width.
        device: Where they lie.
    """
    generator = torch.Generator().manual_seed(0)
    taken = (m.patch_embed.in_channels for m in model.modules() if isinstance(m, KAT))
    images = torch.randn(batch, next(taken, 3), *size, generator=generator).to(device)
    if 'BaseDetector' not in {cls.__name__ for cls in type(model).__mro__}:
        return images, None
    from mmdet.structures import DetDataSample

    meta = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        img_id=0,
    )
    return images, [DetDataSample(metainfo=meta) for _ in range(batch)]
