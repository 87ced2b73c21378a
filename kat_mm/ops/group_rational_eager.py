"""Group-rational function in plain PyTorch: any device and dtype; in float64 it is the truth.

Notation (KAT, Yang and Wang 2025, section 4; forward, and the gradients of its appendix)::

    F(x) = P(x) / Q(x)
    P(x) = a0 + a1 x + ... + am x^m
    Q(x) = 1 + |b1||x| + ... + |bn||x|^n

Coefficients are spread to one per channel, so that every operation runs along whole rows.
"""

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float32 for half types, else the widest dtype that came in."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """F(x) for x of (..., C), numerator of (Gn, m + 1), denominator of (Gd, n)."""
    z, a, q = _prepare(x, numerator, denominator)
    y = _horner(z, a).div_(_horner(z.abs(), q))
    return y.to(x.dtype).view(x.shape)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``numerator`` and ``denominator``, from the inputs alone.

    Q^2 is never formed: it overflows float32 where F and its derivatives are still moderate.
    """
    z, a, q = _prepare(x, numerator, denominator)
    magnitude = z.abs()
    reciprocal = _horner(magnitude, q).reciprocal_()
    y = _horner(z, a).mul_(reciprocal)
    scaled = reciprocal.mul_(grad.reshape(z.shape))

    # dQ/dx = sign(x) dQ/d|x|
    slope = _horner(magnitude, _derivative(q)).mul_(y)
    slope = torch.where(z.signbit(), slope, slope.neg()).add_(_horner(z, _derivative(a)))
    grad_x = slope.mul_(scaled).to(x.dtype).view(x.shape)

    grad_a = _moments(scaled, z, range(len(a)))
    grad_b = _moments(scaled.mul_(y), magnitude, range(1, len(q)))
    return (
        grad_x,
        group_sum(grad_a, numerator),
        group_sum(grad_b, denominator) * -coefficient_sign(denominator),
    )


def coefficient_sign(b: Tensor) -> Tensor:
    """d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there."""
    return torch.where(b < 0, -1.0, 1.0).to(b.dtype)


def group_sum(per_part: Tensor, coefficients: Tensor) -> Tensor:
    """Sum (parts, k) over the parts of each group; result in shape and dtype of coefficients."""
    groups = coefficients.shape[0]
    total = per_part.unflatten(0, (groups, per_part.shape[0] // groups)).sum(dim=1)
    return total.to(coefficients.dtype)


def _prepare(
    x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """x as (rows, C), and the coefficients of P and Q, each one tensor of (C,)."""
    dtype, channels = compute_dtype(x, numerator, denominator), x.shape[-1]
    a, b = (
        list(c.to(dtype).repeat_interleave(channels // len(c), dim=0).T.contiguous())
        for c in (numerator, denominator.abs())
    )
    rows = x.numel() // channels if channels else 0
    return x.to(dtype).reshape(rows, channels), a, [a[0].new_ones(channels), *b]


def _horner(x: Tensor, coefficients: list[Tensor]) -> Tensor:
    """c0 + c1 x + c2 x^2 + ..., in memory of its own."""
    result = coefficients[-1].expand_as(x).clone(memory_format=torch.contiguous_format)
    for coefficient in reversed(coefficients[:-1]):
        torch.addcmul(coefficient, result, x, out=result)
    return result


def _derivative(coefficients: list[Tensor]) -> list[Tensor]:
    """Coefficients of the derivative of c0 + c1 x + ..."""
    derived = [power * c for power, c in enumerate(coefficients)][1:]
    return derived or [torch.zeros_like(coefficients[0])]


def _moments(weight: Tensor, z: Tensor, powers: range) -> Tensor:
    """Sums of weight * z^power over the rows: (C, len(powers))."""
    term = weight * z**powers.start
    sums = []
    for _ in powers:
        sums.append(term.sum(dim=0))
        term.mul_(z)
    return torch.stack(sums, dim=1) if sums else z.new_zeros(z.shape[1], 0)
