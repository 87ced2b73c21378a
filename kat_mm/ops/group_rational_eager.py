"""Group-rational function in plain PyTorch: any device and dtype; in float64 it is the truth.

Notation (KAT, Yang and Wang 2025, section 4; forward, and the gradients of its appendix)::

    F(x) = P(x) / Q(x)
    P(x) = a0 + a1 x + ... + am x^m
    Q(x) = 1 + |b1||x| + ... + |bn||x|^n

Coefficients are spread to one per channel, so that every operation runs along whole rows. A CPU
works on a piece of x at a time, small enough for its cache: each of the forty-odd elementwise
operations would otherwise wait for memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# 1 MiB in float32: the temporaries of a piece stay in cache, and each operation is long enough.
_PIECE = 2**18


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float32 for half types, else the widest dtype that came in."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def lies_in_planes(x: Tensor) -> bool:
    """Whether x of (B, ..., C) lies in memory as contiguous (B, C, ...)."""
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(-1, 1).is_contiguous()


def empty_output(x: Tensor) -> Tensor:
    """Uninitialised result: in planes where x lies in planes, else contiguous."""
    return torch.empty_like(x) if lies_in_planes(x) else x.new_empty(x.shape)


def forward(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None = None
) -> Tensor:
    """F(x + bias) for x of (..., C), numerator of (Gn, m + 1), denominator of (Gd, n)."""
    output = empty_output(x)
    coefficients = _Coefficients(x, numerator, denominator, bias)
    for piece, y in _pieces(x, output):
        z = coefficients.argument(piece)
        y.copy_(_horner(z, coefficients.p).div_(_horner(z.abs(), coefficients.q)))
    return output


def backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``numerator``, ``denominator`` and ``bias``, from the inputs alone.

    Q^2 is never formed: it overflows float32 where F and its derivatives are still moderate.
    """
    grad_x = empty_output(x)
    coefficients = _Coefficients(x, numerator, denominator, bias)
    p, q = coefficients.p, coefficients.q
    sum_a, sum_b, sum_bias = (
        [p[0].new_zeros(x.shape[-1]) for _ in range(count)] for count in (len(p), len(q) - 1, 1)
    )
    for piece, incoming, outgoing in _pieces(x, grad, grad_x):
        z = coefficients.argument(piece)
        magnitude = z.abs()
        reciprocal = _horner(magnitude, q).reciprocal_()
        y = _horner(z, p).mul_(reciprocal)
        scaled = reciprocal.mul_(incoming)

        # dQ/dx = sign(x) dQ/d|x|
        slope = _horner(magnitude, _derivative(q)).mul_(y).mul_(torch.ones_like(z).copysign_(z))
        slope = _horner(z, _derivative(p)).sub_(slope).mul_(scaled)
        outgoing.copy_(slope)

        axes = coefficients.reduced_axes(z)
        _add_moments(sum_a, scaled, z, axes)
        _add_moments(sum_b, scaled.mul_(y).mul_(magnitude), magnitude, axes)
        if bias is not None:
            sum_bias[0] += slope.sum(axes)
    return (
        grad_x,
        _group_sum(sum_a, numerator),
        # d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there.
        _group_sum(sum_b, denominator) * torch.where(denominator < 0, 1, -1),
        x.new_empty(0) if bias is None else sum_bias[0].to(bias.dtype),
    )


class _Coefficients:
    """Coefficients of P and Q, and the bias, as tensors that broadcast along the channels."""

    def __init__(self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None):
        self.dtype = compute_dtype(x, numerator, denominator)
        # Channels are the last dimension of a piece, or the second one where x lies in planes.
        self.shape = (-1,) + (1,) * (x.dim() - 2) if lies_in_planes(x) else (-1,)
        a, b = (
            [
                row.view(self.shape)
                for row in c.to(self.dtype)
                .repeat_interleave(x.shape[-1] // len(c), dim=0)
                .T.contiguous()
            ]
            for c in (numerator, denominator.abs())
        )
        self.p, self.q = a, [a[0].new_ones(a[0].shape), *b]
        self.bias = None if bias is None else bias.to(self.dtype).view(self.shape)

    def argument(self, piece: Tensor) -> Tensor:
        """What the function is applied to: never to be written to, it may be the input itself."""
        z = piece.to(self.dtype)
        return z if self.bias is None else z + self.bias

    def reduced_axes(self, z: Tensor) -> list[int]:
        return [axis for axis in range(z.dim()) if axis != z.dim() - len(self.shape)]


def _pieces(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """x and tensors of its shape, cut along the first dimension, channels where they lie."""
    channels = x.shape[-1]
    if lies_in_planes(x):
        views = [t.movedim(-1, 1) for t in (x, *others)]
    else:
        rows = x.numel() // channels if channels else 0
        views = [t.reshape(rows, channels) for t in (x, *others)]
    size = len(views[0])
    if x.device.type == 'cpu' and size:
        size = max(1, _PIECE * size // x.numel())
    return zip(*(view.split(max(size, 1)) for view in views), strict=True)


def _group_sum(per_channel: list[Tensor], coefficients: Tensor) -> Tensor:
    """Sum k tensors (C,) over the channels of each group, in shape and dtype of coefficients."""
    if not per_channel:
        return torch.zeros_like(coefficients)
    total = torch.stack(per_channel, dim=1).unflatten(0, (len(coefficients), -1)).sum(dim=1)
    return total.to(coefficients.dtype)


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


def _add_moments(sums: list[Tensor], weight: Tensor, z: Tensor, axes: list[int]) -> None:
    """Add the sums of weight, weight * z, weight * z^2, ... along ``axes``."""
    term = weight.clone()
    for index, total in enumerate(sums):
        if index:
            term.mul_(z)
        total += term.sum(axes)
