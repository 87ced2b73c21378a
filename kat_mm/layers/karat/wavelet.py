import math

import torch
from torch import Tensor, nn

from kat_mm.ops.group_rational_eager import compute_dtype

from .basis import Basis


def mexican_hat(x: Tensor) -> Tensor:
    r"""2 / (\sqrt{3} \pi^{1/4}) (1 - x^2) e^{-x^2 / 2}, of unit norm."""
    return 2 / (math.sqrt(3) * math.pi**0.25) * (1 - x * x) * (-x * x / 2).exp()


def morlet(x: Tensor) -> Tensor:
    """cos(5 x) e^{-x^2 / 2}, the real part with the usual central frequency."""
    return (5 * x).cos() * (-x * x / 2).exp()


def dog(x: Tensor) -> Tensor:
    """-x e^{-x^2 / 2}, the derivative of a Gaussian."""
    return -x * (-x * x / 2).exp()


def meyer(x: Tensor) -> Tensor:
    """Meyer's wavelet with the auxiliary function v(t) = t, moved by 1/2 so that it is even.

    Its spectrum, two arcs of sines, transformed back by hand. This is the closed form of Valenzuela
    and de Oliveira (2015), written in sincs, which are finite everywhere.
    """

    def low(c):
        return (math.pi * c).cos() * (c / 3).sinc()

    def high(c):
        return (2 * math.pi * c).sin() * (2 * c / 3).sinc()

    return 2 / 3 * (high(3 / 8 + x) + high(3 / 8 - x)) - (low(3 / 4 + x) + low(3 / 4 - x)) / 3


def shannon(x: Tensor) -> Tensor:
    """2 sinc(2 x) - sinc(x), with sinc(x) = sin(pi x) / (pi x)."""
    return 2 * (2 * x).sinc() - x.sinc()


WAVELETS = {
    'mexican_hat': mexican_hat,
    'morlet': morlet,
    'dog': dog,
    'meyer': meyer,
    'shannon': shannon,
}


class Wavelet(Basis):
    """phi(x) = w psi((x - t) / s), with learnable weight w, translation t and scale s (Wav-KAN).

    The weights start normal with standard deviation 1 / sqrt(inputs), translations at 0 and scales
    at 1.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start, at most, for psi between -1 and 1.
        wavelet: The function psi: 'mexican_hat', 'morlet', 'dog', 'meyer' or 'shannon'.
            Default: 'mexican_hat'.
    """

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float,
        wavelet: str = 'mexican_hat',
    ):
        super().__init__()
        if wavelet not in WAVELETS:
            raise ValueError(
                f'Wavelet: wavelet={wavelet!r} is unknown; choose one of {", ".join(WAVELETS)}'
            )
        self.wavelet = wavelet
        shape = (num_heads, out_features, in_features)
        self.weight = nn.Parameter(gain / in_features**0.5 * torch.randn(shape))
        self.translation = nn.Parameter(torch.zeros(shape))
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        # Pairs are spread out: (B, heads, Q, outputs, inputs).
        z = x.to(compute_dtype(x.dtype))[..., None, :]
        weight, translation, scale = (
            p[:, None] for p in (self.weight, self.translation, self.scale)
        )
        y = weight * WAVELETS[self.wavelet]((z - translation) / scale)
        return y.sum(dim=-1).to(x.dtype)
