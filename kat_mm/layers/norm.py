import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kat_mm.arguments import MOST_CHANNELS, check_int


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map, at each position (ViTDet, in neck and heads).

    The result has the dtype of the input, under autocast too, with sums in float32, and it is in
    the channels-last memory format, in which it takes no copies.

    Args:
        num_channels: Channels C of the map.
        eps: Added to the variance. Default: 1e-6.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6):
        check_int('LayerNorm2d', 'num_channels', num_channels, 1, MOST_CHANNELS)
        super().__init__(num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            y = F.layer_norm(
                x.permute(0, 2, 3, 1),
                self.normalized_shape,
                self.weight.to(x.dtype),
                self.bias.to(x.dtype),
                self.eps,
            )
        return y.permute(0, 3, 1, 2)
