"""The group-rational function in PyTorch's standard operators, for programs that leave PyTorch.

Registered as the operator's decomposition: exporters, such as ``torch.onnx.export``, take it where
they do not know the operator itself. Training and compilation do not.
"""

import torch
from torch import Tensor

from .common.dtypes import rational_dtype


def group_rational(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None = None
) -> Tensor:
    """F(x + bias) by Horner's rule; arguments as of the public function.

    Coefficients are one row for each channel. They depend on no input, so exporters fold them.
    """
    dtypes = x.dtype, numerator.dtype, denominator.dtype
    dtype = rational_dtype(dtypes, numerator.shape, denominator.shape)
    channels = x.shape[-1]
    a, b = (_rows(table.to(dtype), channels) for table in (numerator, denominator.abs()))
    z = x.to(dtype)
    if bias is not None:
        z = z + bias.to(dtype)
    p, one = a[-1], torch.ones((), dtype=dtype, device=x.device)
    for row in a[-2::-1]:
        p = p * z + row
    if b:
        z, q = z.abs(), b[-1]
        for row in [*b[-2::-1], one]:
            q = q * z + row
        p = p / q
    return p.expand(x.shape).to(x.dtype)


def _rows(table: Tensor, channels: int) -> list[Tensor]:
    """(groups, coefficients) to a (channels,) for each coefficient."""
    groups, number = table.shape
    spread = table.T.unsqueeze(2).expand(-1, -1, channels // groups)
    return list(spread.reshape(number, channels).unbind())
