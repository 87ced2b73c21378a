"""Group-rational function in plain PyTorch: any device and dtype; in float64 it is the truth.

Notation (KAT, Yang and Wang 2025, section 4; forward, and the gradients of its appendix)::

    F(x) = P(x) / Q(x)
    P(x) = a0 + a1 x + ... + am x^m
    Q(x) = 1 + |b1||x| + ... + |bn||x|^n

Coefficients are spread to one per channel, so that every operation runs along whole rows. A CPU
works on a piece of x at a time, small enough for its cache: each of the forty-odd elementwise
operations would otherwise wait for memory.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .common.dtypes import rational_dtype

# 512 KiB in float32: the temporaries of a piece stay in cache, and each operation is long enough.
_PIECE = 2**17


def lies_in_planes(x: Tensor) -> bool:
    """Whether x of (B, ..., C) lies in memory as contiguous (B, C, ...)."""
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(-1, 1).is_contiguous()


def empty_output(x: Tensor) -> Tensor:
    """Uninitialised result: in planes where x lies in planes, else contiguous."""
    in_planes = lies_in_planes(x)
    return torch.empty_like(
        x, memory_format=torch.preserve_format if in_planes else torch.contiguous_format
    )


def forward(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None = None
) -> Tensor:
    """F(x + bias) for x of (..., C), numerator of (Gn, m + 1), denominator of (Gd, n)."""
    output = empty_output(x)
    coefficients = _Coefficients(x, numerator, denominator, bias)
    scratch = _Scratch()
    for piece, y in _pieces(x, output):
        z = coefficients.argument(piece, scratch)
        p = _horner(z, coefficients.p, scratch('p', z))
        q = _horner(torch.abs(z, out=scratch('|z|', z)), coefficients.q, scratch('q', z))
        _store(y, torch.div, p, q)
    return output


def backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of ``x``, ``numerator``, ``denominator`` and ``bias``, from the inputs alone.

    Q^2 is never formed: it overflows float32 where F and its derivatives are still moderate.
    """
    grad_x = empty_output(x)
    coefficients = _Coefficients(x, numerator, denominator, bias)
    p, q = coefficients.p, coefficients.q
    dp, dq = _derivative(p), _derivative(q)
    sum_a, sum_b, sum_bias = (
        [p[0].new_zeros(x.shape[-1]) for _ in range(count)] for count in (len(p), len(q) - 1, 1)
    )
    scratch = _Scratch()
    for piece, incoming, outgoing in _pieces(x, grad, grad_x):
        z = coefficients.argument(piece, scratch)
        magnitude = torch.abs(z, out=scratch('|z|', z))
        reciprocal = _horner(magnitude, q, scratch('1/q', z)).reciprocal_()
        y = _horner(z, p, scratch('y', z)).mul_(reciprocal)
        grad_p = reciprocal.mul_(incoming)
        grad_q = y.mul_(grad_p)

        # dQ/dx = sign(x) dQ/d|x|
        slope = _horner(magnitude, dq, scratch('slope', z))
        slope.mul_(torch.copysign(coefficients.one, z, out=scratch('term', z))).mul_(grad_q)
        grad_z = _horner(z, dp, scratch('grad', z)).mul_(grad_p)
        grad_z = _store(outgoing, torch.sub, grad_z, slope)

        axes, term = coefficients.reduced_axes(z), scratch('term', z)
        _add_moments(sum_a, grad_p, z, axes, term)
        _add_moments(sum_b, grad_q.mul_(magnitude), magnitude, axes, term)
        if bias is not None:
            sum_bias[0] += grad_z.sum(axes)
    return (
        grad_x,
        _group_sum(sum_a, numerator),
        # d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there.
        _group_sum(sum_b, denominator) * torch.where(denominator < 0, 1, -1),
        None if bias is None else sum_bias[0].to(bias.dtype),
    )


class _Coefficients:
    """Coefficients of P and Q, and the bias, as tensors that broadcast along the channels."""

    def __init__(self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None):
        self.dtype = rational_dtype(
            (x.dtype, numerator.dtype, denominator.dtype), numerator.shape, denominator.shape
        )
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
        self.one = a[0].new_ones(())
        self.bias = None if bias is None else bias.to(self.dtype).view(self.shape)

    def argument(self, piece: Tensor, scratch: '_Scratch') -> Tensor:
        """What the function is applied to: never to be written to, it may be the input itself."""
        z = piece.to(self.dtype)
        return z if self.bias is None else torch.add(z, self.bias, out=scratch('z', z))

    def reduced_axes(self, z: Tensor) -> list[int]:
        return [axis for axis in range(z.dim()) if axis != z.dim() - len(self.shape)]


class _Scratch(dict):
    """Memory for temporaries by name, kept from one piece to the next: new pages cost more."""

    def __call__(self, name: str, like: Tensor) -> Tensor:
        tensor = self.get(name)
        if tensor is None or tensor.shape != like.shape:
            tensor = self[name] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return tensor


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


def _store(out: Tensor, function: Callable, left: Tensor, right: Tensor) -> Tensor:
    """``function(left, right)`` into ``out``; returns it in the dtype of the arithmetic."""
    if out.dtype == left.dtype:
        return function(left, right, out=out)
    result = function(left, right, out=left)
    out.copy_(result)
    return result


def _group_sum(per_channel: list[Tensor], coefficients: Tensor) -> Tensor:
    """Sum k tensors (C,) over the channels of each group, in shape and dtype of coefficients."""
    if not per_channel:
        return torch.zeros_like(coefficients)
    total = torch.stack(per_channel, dim=1).unflatten(0, (len(coefficients), -1)).sum(dim=1)
    return total.to(coefficients.dtype)


def _horner(x: Tensor, coefficients: list[Tensor], out: Tensor) -> Tensor:
    """c0 + c1 x + c2 x^2 + ..., in ``out``."""
    if len(coefficients) == 1:  # a constant too is undefined where x is
        return torch.mul(x, 0, out=out).add_(coefficients[0])
    *lower, second, first = coefficients
    torch.addcmul(second, x, first, out=out)
    for coefficient in reversed(lower):
        torch.addcmul(coefficient, out, x, out=out)
    return out


def _derivative(coefficients: list[Tensor]) -> list[Tensor]:
    """Coefficients of the derivative of c0 + c1 x + ..."""
    derived = [power * c for power, c in enumerate(coefficients)][1:]
    return derived or [torch.zeros_like(coefficients[0])]


def _add_moments(
    sums: list[Tensor], weight: Tensor, z: Tensor, axes: list[int], term: Tensor
) -> None:
    """Add the sums of weight, weight * z, weight * z^2, ... along ``axes``; writes to ``term``."""
    for power, total in enumerate(sums):
        if power:
            weight = torch.mul(weight, z, out=term)
        total += weight.sum(axes)
