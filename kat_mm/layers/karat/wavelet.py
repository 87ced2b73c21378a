import math

import torch
from torch import Tensor, nn

from kat_mm.arguments import check_choice
from kat_mm.ops.common.dtypes import compute_dtype

from .basis import Basis


def mexican_hat(x: Tensor) -> Tensor:
    r"""2 / (\sqrt{3} \pi^{1/4}) (x^2 - 1) e^{-x^2 / 2}, of unit norm."""
    return 2 / (math.sqrt(3) * math.pi**0.25) * (x * x - 1) * (-x * x / 2).exp()


def morlet(x: Tensor) -> Tensor:
    """cos(5 x) e^{-x^2 / 2}, the real part with the usual central frequency."""
    return (5 * x).cos() * (-x * x / 2).exp()


def dog(x: Tensor) -> Tensor:
    """-x e^{-x^2 / 2}, the derivative of a Gaussian."""
    return -x * (-x * x / 2).exp()


def meyer(x: Tensor) -> Tensor:
    """sin(pi |x|) m(|x|), with m falling from 1 at 1/2 to 0 at 1 as cos(pi/2 nu(2 |x| - 1)).

    nu(t) = t^4 (35 - 84 t + 70 t^2 - 20 t^3). Since nu(t) + nu(1 - t) = 1, the cosine is the sine
    of pi/2 nu(2 - 2 |x|), which is exact at both ends.
    """
    magnitude = x.abs()
    t = (2 - 2 * magnitude).clamp(0, 1)
    nu = t**4 * (35 - 84 * t + 70 * t * t - 20 * t**3)
    return (math.pi * magnitude).sin() * (math.pi / 2 * nu).sin()


def shannon(x: Tensor) -> Tensor:
    """sin(x) / x times a symmetric Hamming window over the inputs, the last axis."""
    window = torch.hamming_window(x.shape[-1], periodic=False, dtype=x.dtype, device=x.device)
    return (x / math.pi).sinc() * window


WAVELETS = {
    'mexican_hat': mexican_hat,
    'morlet': morlet,
    'dog': dog,
    'meyer': meyer,
    'shannon': shannon,
}


class Wavelet(Basis):
    """phi(x) = w psi((x - t) / s), with learnable weight w, translation t and scale s.

    The functions psi are those of Wav-KAN (Bozorgasl and Chen 2024), as in KArAt (Maity et al.
    2025, table 6). The weights start from N(0, 1), or with a ``gain`` with standard deviation
    gain / sqrt(inputs); translations start at 0 and scales at 1.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start, at most, for psi between -1 and 1.
            Default: None, see above.
        wavelet: The function psi: 'mexican_hat', 'morlet', 'dog', 'meyer' or 'shannon'.
            Default: 'mexican_hat'.
    """

    amplitude = 'weight'

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float | None = None,
        wavelet: str = 'mexican_hat',
    ):
        super().__init__(in_features, 1, gain)
        check_choice('Wavelet', 'wavelet', wavelet, WAVELETS)
        self.wavelet = wavelet
        self.counts_inputs = wavelet == 'shannon'
        shape = (num_heads, out_features, in_features)
        self.weight = nn.Parameter(self.amplitude_std * torch.randn(shape))
        self.translation = nn.Parameter(torch.zeros(shape))
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor, amplitude: Tensor | None = None) -> Tensor:
        # Pairs are spread out: (B, heads, Q, outputs, inputs).
        z = x.to(compute_dtype(x.dtype))[..., None, :]
        weight = self.weight if amplitude is None else amplitude
        weight, translation, scale = (p[:, None] for p in (weight, self.translation, self.scale))
        y = weight * WAVELETS[self.wavelet]((z - translation) / scale)
        return y.sum(dim=-1).to(x.dtype)
