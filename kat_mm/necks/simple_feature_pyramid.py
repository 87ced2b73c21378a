from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from kat_mm.arguments import MOST_CHANNELS, check_int
from kat_mm.layers import LayerNorm2d


class SimpleFeaturePyramid(BaseModule):
    """Feature pyramid from the last map of a plain backbone (ViTDet, Li et al. 2022, section 3).

    For patches of 16 pixels the scales have the strides 4, 8, 16 and 32: two deconvolutions, one,
    none, and a max-pool. Each is followed by conv 1x1, norm, conv 3x3, norm. Further levels are
    every second pixel of the one before, as in Mask R-CNN's FPN.

    Args:
        in_channels: Channels C of the backbone's map.
        out_channels: Channels of each level. Default: 256.
        scales: Size of each level as a multiple of the map's: 4, 2, 1 or 0.5.
            Default: (4, 2, 1, 0.5).
        num_outs: Number of levels, at least as many as scales. Default: 5.
        init_cfg: Initialisation. Default: None, that of PyTorch's layers.

    Raises:
        ValueError: A scale is unknown, ``num_outs`` is smaller than their number, or a number is
            not whole and positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        for name, value in (('in_channels', in_channels), ('out_channels', out_channels)):
            check_int('SimpleFeaturePyramid', name, value, 1, MOST_CHANNELS)
        check_int('SimpleFeaturePyramid', 'num_outs', num_outs, 1, 16)
        if not isinstance(scales, Sequence) or not scales or not {4, 2, 1, 0.5}.issuperset(scales):
            raise ValueError(
                f'SimpleFeaturePyramid: scales={scales!r} must be some of 4, 2, 1 and 0.5'
            )
        if in_channels % 4:
            raise ValueError(
                f'SimpleFeaturePyramid: in_channels={in_channels} must be a multiple of 4, since '
                'each deconvolution halves them'
            )
        if num_outs < len(scales):
            raise ValueError(
                f'SimpleFeaturePyramid: num_outs={num_outs} must be at least the number of '
                f'scales, {len(scales)}'
            )
        self.num_extra_levels = num_outs - len(scales)
        self.levels = ModuleList(_level(in_channels, out_channels, scale) for scale in scales)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, the last (B, C, H, W), to ``num_outs`` maps, the largest first."""
        if inputs[-1].dim() != 4:
            raise ValueError(
                'SimpleFeaturePyramid: the last input must be a map (B, C, H, W), and is '
                f"{tuple(inputs[-1].shape)}. A KAT gives maps with out_type='featmap'"
            )
        # Norms and half-precision convolutions are fastest on channels-last maps; mmcv's RoIAlign
        # reads others than contiguous ones wrongly, in silence.
        x = inputs[-1].to(memory_format=torch.channels_last)
        outputs = [level(x).contiguous() for level in self.levels]
        for _ in range(self.num_extra_levels):
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(outputs)


def _level(in_channels: int, out_channels: int, scale: float) -> nn.Sequential:
    channels = in_channels
    if scale == 4:
        resize = [
            nn.ConvTranspose2d(channels, channels // 2, 2, stride=2),
            LayerNorm2d(channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2),
        ]
        channels //= 4
    elif scale == 2:
        resize = [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)]
        channels //= 2
    elif scale == 1:
        resize = []
    else:
        resize = [nn.MaxPool2d(2, stride=2)]
    return nn.Sequential(
        *resize,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
