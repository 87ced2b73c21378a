import torch
from torch import Tensor, nn

from kat_mm.arguments import MOST_DEGREE, check_pair
from kat_mm.ops.common.dtypes import compute_dtype

from .basis import Basis


class Rational(Basis):
    """phi(x) = (a0 + a1 x + ... + am x^m) / (1 + |b1 x + ... + bn x^n|), the safe Pade unit.

    (Maity et al. 2025, table 6.) All coefficients start from N(0, 1), or with a ``gain`` those of
    the numerator with standard deviation gain / sqrt(inputs (m + 1)).

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start, at most, for inputs between -1 and 1.
            Default: None, see above.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
    """

    amplitude = 'numerator'

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float | None = None,
        order: tuple[int, int] = (5, 4),
    ):
        check_pair('Rational', 'order', order, 0, 'the degrees (m, n)', MOST_DEGREE)
        m, n = order
        super().__init__(in_features, m + 1, gain)
        self.numerator = nn.Parameter(
            self.amplitude_std * torch.randn(num_heads, m + 1, out_features, in_features)
        )
        self.denominator = nn.Parameter(torch.randn(num_heads, n, out_features, in_features))

    def forward(self, x: Tensor, amplitude: Tensor | None = None) -> Tensor:
        # Pairs are spread out: (B, heads, Q, outputs, inputs).
        z = x.to(compute_dtype(x.dtype))[..., None, :]
        y = _polynomial(self.numerator if amplitude is None else amplitude, z)
        if self.denominator.shape[1]:
            y = y / (1 + (z * _polynomial(self.denominator, z)).abs())
        return y.sum(dim=-1).to(x.dtype)


def _polynomial(coefficients: Tensor, z: Tensor) -> Tensor:
    """sum_k c_k z^k by Horner's rule, for c (heads, K, outputs, inputs)."""
    *lower, y = coefficients[:, :, None].to(z.dtype).unbind(1)
    for c in reversed(lower):
        y = y * z + c
    return y
