import torch
from torch import Tensor, nn

from kat_mm.ops import low_rank_attend


class LinearMap(nn.Module):
    """y = W x, with a matrix of its own for each head: the linear layer of a modular operator.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        std: Standard deviation of the normal distribution that W starts with.
    """

    def __init__(self, num_heads: int, out_features: int, in_features: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(num_heads, out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, Q, inputs) to (B, heads, Q, outputs)."""
        return x @ self.weight.mT

    def of_scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """``self(scale * q @ k.mT)`` in d x r steps instead of N x N, without the scores."""
        return scale * q @ (self.weight @ k).mT

    def combine(self, x: Tensor, values: Tensor) -> Tensor:
        """``self(x) @ values``, for x (B, heads, Q, inputs) and values (B, heads, outputs, d)."""
        return low_rank_attend(x, self.weight, values)
