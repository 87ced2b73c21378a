from collections.abc import Iterator

from torch import Tensor

from kat_mm.arguments import MOST_DEGREE, MOST_FUNCTIONS, check_int, check_interval

from .basis import LinearBasis


class BSpline(LinearBasis):
    """phi(x) = sum_k c_k B_k(x), with the B-splines of a uniform grid (KAN, Liu et al. 2024).

    ``grid`` intervals of equal width cover ``range``, and ``order`` more follow on either side, as
    in KAN: there are grid + order functions, whose sum is 1 in ``range``, and which vanish at more
    than ``order`` intervals from it. The coefficients start from N(0, 1), or with a ``gain`` with
    standard deviation gain / sqrt(inputs).

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start, at most. Default: None, see above.
        grid: Number of intervals in ``range``, which KAN's authors call so. Default: 5.
        order: Degree of the polynomials, from 1 to ``grid``, at most 16. Default: 3.
        range: Ends of the intervals. Default: (-4, 4), where nearly all scores lie at the start.
    """

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float | None = None,
        grid: int = 5,
        order: int = 3,
        range: tuple[float, float] = (-4.0, 4.0),
    ):
        check_int('BSpline', 'grid', grid, 1, MOST_FUNCTIONS)
        # More than so many intervals carry.
        check_int('BSpline', 'order', order, 1, min(grid, MOST_DEGREE))
        check_interval('BSpline', 'range', range)
        super().__init__(grid + order, num_heads, out_features, in_features, 1, gain)
        self.num_intervals = grid
        self.order = order
        self.range = tuple(range)

    def expand(self, x: Tensor) -> Iterator[Tensor]:
        """B_1(x), B_2(x), ... by the recursion of Cox and de Boor, in units of an interval."""
        low, high = self.range
        position = (x - low) * (self.num_intervals / (high - low)) + self.order
        bins = position.floor()
        splines = [(bins == k).to(x.dtype) for k in range(self.num_intervals + 2 * self.order)]
        for degree in range(1, self.order + 1):
            splines = [
                ((position - k) * left + (k + degree + 1 - position) * right) / degree
                for k, (left, right) in enumerate(zip(splines, splines[1:], strict=False))
            ]
        yield from splines
