from collections.abc import Iterator

from torch import Tensor

from .basis import LinearBasis


class Fourier(LinearBasis):
    """phi(x) = sum_{k=1..G} a_k cos(k x) + b_k sin(k x) (KArAt; Fourier KAN).

    The coefficients start normal with standard deviation 1 / sqrt(inputs G), as those of KArAt, so
    that an output has variance ``gain ** 2`` whatever the inputs are.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start.
        grid: Frequencies G. Default: 3.
    """

    def __init__(
        self, num_heads: int, out_features: int, in_features: int, gain: float, grid: int = 3
    ):
        if grid < 1:
            raise ValueError(f'Fourier: grid={grid} must be at least 1, one frequency')
        std = gain / (in_features * grid) ** 0.5
        super().__init__(2 * grid, num_heads, out_features, in_features, std)
        self.grid = grid

    def expand(self, x: Tensor) -> Iterator[Tensor]:
        """cos(x), ..., cos(G x), sin(x), ..., sin(G x)"""
        for k in range(1, self.grid + 1):
            yield (k * x).cos()
        for k in range(1, self.grid + 1):
            yield (k * x).sin()
