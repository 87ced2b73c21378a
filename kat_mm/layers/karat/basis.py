import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kat_mm.ops.common.dtypes import compute_dtype


class Basis(nn.Module, ABC):
    """Learnable functions of one variable, one for each pair of output and input and each head.

    The last two dimensions of every parameter are (outputs, inputs), and the first is the head.

    Args:
        in_features: Inputs.
        power: Mean square of a function whose amplitudes are from N(0, 1), at most.
        gain: Standard deviation of an output at the start, at most. None: amplitudes from N(0, 1).

    Attributes:
        amplitude: Name of the parameter in which the functions are linear.
        amplitude_std: Standard deviation of the normal distribution that it starts with.
        output_std: Standard deviation of an output at the start, at most.
        linear: Whether the functions are linear in all parameters. Only then do interpolated
            parameters give interpolated functions.
        counts_inputs: Whether a function depends on the place of its input among all inputs.
    """

    amplitude: str
    linear = False
    counts_inputs = False

    def __init__(self, in_features: int, power: float, gain: float | None):
        super().__init__()
        spread = (in_features * power) ** 0.5
        self.amplitude_std = 1.0 if gain is None else gain / spread
        self.output_std = spread if gain is None else gain

    @abstractmethod
    def forward(self, x: Tensor, amplitude: Tensor | None = None) -> Tensor:
        """y_o = sum_i phi_oi(x_i): (B, heads, Q, inputs) to (B, heads, Q, outputs).

        Args:
            x: (B, heads, Q, inputs).
            amplitude: What to take in the place of that parameter. Default: None, the parameter.
        """


class LinearBasis(Basis):
    """phi_oi(x) = sum_k c_koi f_k(x), with functions f_k that are the same for all pairs.

    Args:
        num_functions: Number K of the functions f_k.
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        power, gain: As of :class:`Basis`, with the coefficients c (heads, K, outputs, inputs) as
            amplitudes.
    """

    amplitude = 'coefficients'
    linear = True

    def __init__(
        self,
        num_functions: int,
        num_heads: int,
        out_features: int,
        in_features: int,
        power: float,
        gain: float | None,
    ):
        super().__init__(in_features, power, gain)
        self.coefficients = nn.Parameter(
            self.amplitude_std * torch.randn(num_heads, num_functions, out_features, in_features)
        )

    @abstractmethod
    def expand(self, x: Tensor) -> Iterator[Tensor]:
        """f_1(x), f_2(x), ..., each of x's shape, in float32 or wider."""

    def forward(self, x: Tensor, amplitude: Tensor | None = None) -> Tensor:
        coefficients = self.coefficients if amplitude is None else amplitude
        functions = self.expand(x.to(compute_dtype(x.dtype)))
        pairs = zip(functions, coefficients.unbind(1), strict=True)
        terms = (function.to(x.dtype) @ c.mT for function, c in pairs)
        return functools.reduce(torch.add, terms)

    def combine(self, x: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """``self(x) @ values``, without its intermediate (B, heads, Q, outputs).

        Args:
            x: (B, heads, Q, inputs).
            values: (B, heads, outputs, d).
            coefficients: Those to take, (heads, K, outputs, inputs).

        Returns:
            (B, heads, Q, d).
        """
        functions = self.expand(x.to(compute_dtype(x.dtype)))
        functions = torch.cat([f.to(x.dtype) for f in functions], dim=-1)
        return functions @ (coefficients.transpose(2, 3).flatten(1, 2) @ values)
