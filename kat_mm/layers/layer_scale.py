import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch (Touvron et al. 2021, CaiT, section 2).

    Args:
        embed_dims: Channels C of the tokens.
        init_value: What all factors start as.
    """

    neutral = {'gamma': 1.0}

    def __init__(self, embed_dims: int, init_value: float):
        super().__init__()
        self.init_value = init_value
        self.gamma = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def init_weights(self) -> None:
        nn.init.constant_(self.gamma, self.init_value)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape and dtype."""
        return x * self.gamma.to(x.dtype)
