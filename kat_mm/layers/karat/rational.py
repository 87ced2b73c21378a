import torch
from torch import Tensor, nn

from kat_mm.ops import group_rational

from .basis import Basis


class Rational(Basis):
    """phi(x) = (a0 + a1 x + ... + am x^m) / (1 + |b1||x| + ... + |bn||x|^n).

    The group-rational function of KAT with a group for each pair. The numerators start normal with
    standard deviation 1 / sqrt(inputs (m + 1)), and all b at 1: a start at 0 would leave the powers
    of large scores unchecked.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start, for scores of about 1.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
    """

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float,
        order: tuple[int, int] = (5, 4),
    ):
        super().__init__()
        m, n = order
        if m < 0 or n < 0:
            raise ValueError(f'Rational: order={tuple(order)} must be degrees of 0 or more')
        std = gain / (in_features * (m + 1)) ** 0.5
        self.numerator = nn.Parameter(
            std * torch.randn(num_heads, m + 1, out_features, in_features)
        )
        self.denominator = nn.Parameter(torch.ones(num_heads, n, out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        # Pairs are spread out as channels: (B, Q, heads * outputs * inputs).
        batch, heads, queries, inputs = x.shape
        outputs = self.numerator.shape[2]
        pairs = x.transpose(1, 2)[..., None, :].expand(-1, -1, -1, outputs, -1).flatten(2)
        numerator, denominator = (
            c.permute(0, 2, 3, 1).flatten(0, 2) for c in (self.numerator, self.denominator)
        )
        y = group_rational(pairs, numerator, denominator)
        return y.view(batch, queries, heads, outputs, inputs).sum(dim=-1).transpose(1, 2)
