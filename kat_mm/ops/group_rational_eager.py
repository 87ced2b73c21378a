"""Group-rational function in plain PyTorch: any device and dtype; in float64 it is the truth.

Notation (KAT, Yang & Wang 2025, section 4; forward, and the gradients of its appendix)::

    F(x) = P(x) / Q(x)
    P(x) = a0 + a1 x + ... + am x^m
    Q(x) = 1 + |b1||x| + ... + |bn||x|^n

Numerator and denominator may be shared by different numbers of groups. The channels are therefore
cut into *cells*, the longest runs of channels that share both: ``lcm(Gn, Gd)`` of them.
"""

import math

import torch
from torch import Tensor


def num_cells(numerator: Tensor, denominator: Tensor) -> int:
    """Number of runs of channels with one numerator and one denominator."""
    return math.lcm(numerator.shape[0], denominator.shape[0])


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float32 for half types, else the widest dtype that came in."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _spread(coefficients: Tensor, cells: int, dtype: torch.dtype) -> list[Tensor]:
    """(G, k) coefficients to k tensors of (cells, 1), which broadcast over (..., cells, width)."""
    spread = coefficients.to(dtype).repeat_interleave(cells // coefficients.shape[0], dim=0)
    return list(spread.unsqueeze(-1).unbind(dim=1))


def _horner(x: Tensor, coefficients: list[Tensor]) -> Tensor:
    """c0 + c1 x + c2 x^2 + ..., always in memory of its own."""
    result = coefficients[-1].expand_as(x).clone()
    for coefficient in reversed(coefficients[:-1]):
        result = torch.addcmul(coefficient, result, x)
    return result


def _derivative(coefficients: list[Tensor]) -> list[Tensor]:
    """Coefficients of the derivative of c0 + c1 x + ..."""
    if len(coefficients) == 1:
        return [torch.zeros_like(coefficients[0])]
    return [power * c for power, c in enumerate(coefficients)][1:]


def _denominator(b: list[Tensor], cells: int, like: Tensor) -> list[Tensor]:
    return [like.new_ones(cells, 1), *(c.abs() for c in b)]


def forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """F(x) for x of (..., C), numerator of (Gn, m + 1), denominator of (Gd, n)."""
    dtype, cells = compute_dtype(x, numerator, denominator), num_cells(numerator, denominator)
    a, b = _spread(numerator, cells, dtype), _spread(denominator, cells, dtype)
    z = x.to(dtype).unflatten(-1, (cells, x.shape[-1] // cells))
    y = _horner(z, a) / _horner(z.abs(), _denominator(b, cells, z))
    return y.flatten(-2).to(x.dtype, memory_format=torch.contiguous_format)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``numerator`` and ``denominator``, from the inputs alone.

    Q^2 is never formed: it overflows float32 where F and its derivatives are still moderate.
    """
    dtype, cells = compute_dtype(x, numerator, denominator), num_cells(numerator, denominator)
    a, b = _spread(numerator, cells, dtype), _spread(denominator, cells, dtype)
    z = x.to(dtype).unflatten(-1, (cells, x.shape[-1] // cells))
    magnitude = z.abs()
    q = _denominator(b, cells, z)
    reciprocal = _horner(magnitude, q).reciprocal_()
    y = _horner(z, a).mul_(reciprocal)
    scaled = grad.to(dtype).unflatten(-1, z.shape[-2:]).mul(reciprocal)

    # dQ/dx = sign(x) dQ/d|x|, with sign(0) = +1 as in the authors' kernels.
    slope = _horner(magnitude, _derivative(q)).mul_(y)
    slope = torch.where(z < 0, slope, -slope).add_(_horner(z, _derivative(a))).mul_(scaled)
    grad_x = slope.flatten(-2).to(x.dtype, memory_format=torch.contiguous_format)

    grad_a = _moments(scaled, z, range(len(a)))
    grad_b = _moments(scaled.mul_(y), magnitude, range(1, len(b) + 1))
    return (
        grad_x,
        group_sum(grad_a, numerator),
        group_sum(grad_b, denominator) * -coefficient_sign(denominator),
    )


def _moments(weight: Tensor, z: Tensor, powers: range) -> Tensor:
    """Sums of weight * z^power over rows and the channels of a cell: (cells, len(powers))."""
    cells, width = z.shape[-2:]
    if not len(powers):
        return z.new_zeros(cells, 0)
    term = weight if powers[0] == 0 else weight * z
    sums = []
    for power in powers:
        sums.append(term.reshape(-1, cells, width).sum(dim=(0, 2)))
        if power != powers[-1]:
            term = term * z
    return torch.stack(sums, dim=1)


def coefficient_sign(b: Tensor) -> Tensor:
    """d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there."""
    return torch.where(b < 0, -1.0, 1.0).to(b.dtype)


def group_sum(per_part: Tensor, coefficients: Tensor) -> Tensor:
    """Sum (parts, k) over the parts of each group; result in shape and dtype of coefficients."""
    groups = coefficients.shape[0]
    total = per_part.unflatten(0, (groups, per_part.shape[0] // groups)).sum(dim=1)
    return total.to(coefficients.dtype)
