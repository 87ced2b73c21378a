from collections.abc import Iterator

from torch import Tensor

from kat_mm.arguments import MOST_FUNCTIONS, check_int

from .basis import LinearBasis


class Fourier(LinearBasis):
    """phi(x) = sum_{k=1..G} a_k cos(k x) + b_k sin(k x) (Maity et al. 2025, equation 2).

    The coefficients start from N(0, 1) (their table 6), or with a ``gain`` with standard deviation
    gain / sqrt(inputs G): an output then has variance ``gain ** 2`` whatever the inputs are.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start. Default: None, see above.
        grid: Number of frequencies G, which KAN's authors call so. Default: 3.
    """

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float | None = None,
        grid: int = 3,
    ):
        check_int('Fourier', 'grid', grid, 1, MOST_FUNCTIONS)
        super().__init__(2 * grid, num_heads, out_features, in_features, grid, gain)
        self.num_frequencies = grid

    def expand(self, x: Tensor) -> Iterator[Tensor]:
        """cos(x), ..., cos(G x), sin(x), ..., sin(G x)"""
        for k in range(1, self.num_frequencies + 1):
            yield (k * x).cos()
        for k in range(1, self.num_frequencies + 1):
            yield (k * x).sin()
