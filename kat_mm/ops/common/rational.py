"""Arithmetic of rational functions inside Triton kernels.

Kernels work on tiles (rows, slots, lanes): a slot is a run of ``VECTOR`` channels that share their
coefficients, held by one thread, so that a thread keeps one register for each coefficient and for
each of their gradients, which ``reduction`` adds up.
"""

import torch
import triton
import triton.language as tl

from .launch import uses_ptx


@triton.jit
def load_coefficients(pointer, group, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """The COUNT coefficients of each ``group``, as a tuple."""
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.load(pointer + group * COUNT + i).to(DTYPE),)
    return result


@triton.jit
def load_magnitudes(pointer, group, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """The absolute values of the COUNT coefficients of each ``group``, as a tuple."""
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.abs(tl.load(pointer + group * COUNT + i).to(DTYPE)),)
    return result


@triton.jit
def polynomial(x, c, COUNT: tl.constexpr):
    """c[0] + c[1] x + ... up to c[COUNT - 1]"""
    # A constant too is undefined where x is.
    result = x * 0 + c[0] if COUNT == 1 else tl.zeros_like(x) + c[COUNT - 1]
    for i in tl.static_range(COUNT - 1):
        result = result * x + c[COUNT - 2 - i]
    return result


@triton.jit
def derivative(x, c, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """sum of power * c[i] * x^(power - 1), where c[i] belongs to power i + 1 - FIRST"""
    result = tl.zeros_like(x)
    for i in tl.static_range(COUNT - FIRST):
        result = result * x + (COUNT - FIRST - i) * c[COUNT - 1 - i]
    return result


@triton.jit
def reciprocal_denominator(magnitude, b, N: tl.constexpr, APPROXIMATE: tl.constexpr):
    """1 / Q(x) from |x| and |b|; Q is at least 1."""
    if N == 0:
        q = magnitude * 0 + 1
    else:
        q = polynomial(magnitude, b, N) * magnitude + 1
    if APPROXIMATE:
        # A division takes five more instructions, for numbers that q cannot be.
        q = tl.inline_asm_elementwise(
            'rcp.approx.ftz.f32 $0, $1;', '=f,f', [q], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        q = 1.0 / q
    return q


@triton.jit
def times_sign(value, x, DTYPE: tl.constexpr):
    """value * sign(x) in one instruction: the sign bits are combined."""
    if DTYPE == tl.float64:
        sign = x.to(tl.int64, bitcast=True) & -(2**63)
        value = (value.to(tl.int64, bitcast=True) ^ sign).to(DTYPE, bitcast=True)
    else:
        sign = x.to(tl.int32, bitcast=True) & -(2**31)
        value = (value.to(tl.int32, bitcast=True) ^ sign).to(DTYPE, bitcast=True)
    return value


@triton.jit
def evaluate(x, a, b, M: tl.constexpr, N: tl.constexpr, APPROXIMATE: tl.constexpr):
    """F(x) of a tile, from the coefficients a and the magnitudes b."""
    return polynomial(x, a, M + 1) * reciprocal_denominator(tl.abs(x), b, N, APPROXIMATE)


@triton.jit
def differentiate(
    x,
    grad,
    a,
    b,
    sums,
    M: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
):
    """Gradient of x for a tile (rows, slots, lanes), ``sums`` with this tile's shares, and F(x).

    The sums are those of grad * x^i / Q for i = 0 to M, then of grad * F * |x|^j / Q for j = 1 to
    N: the gradients of the coefficients, but for the sign of the latter.
    """
    magnitude = tl.abs(x)
    reciprocal = reciprocal_denominator(magnitude, b, N, APPROXIMATE)
    grad *= reciprocal
    value = polynomial(x, a, M + 1) * reciprocal
    grad_q = grad * value
    # dQ/dx = sign(x) dQ/d|x|
    slope = times_sign(derivative(magnitude, b, 0, N), x, DTYPE)
    grad_x = derivative(x, a, 1, M + 1) * grad - slope * grad_q

    # grad * x^i as (grad or grad * x) * (x^2)^k: one fused multiply-add for each sum.
    square = x * x
    updated = ()
    even, odd, power = grad, grad * x, square
    for i in tl.static_range(M + 1):
        term = even if i % 2 == 0 else odd
        if i > 1:
            term = term * power
        updated = updated + (sums[i] + tl.sum(term, axis=2),)
        if i > 1 and i % 2 == 1:
            power = power * square
    even = grad_q
    odd = even * magnitude
    power = square
    for j in tl.static_range(1, N + 1):
        term = even if j % 2 == 0 else odd
        if j > 1:
            term = term * power
        updated = updated + (sums[M + j] + tl.sum(term, axis=2),)
        if j > 1 and j % 2 == 1:
            power = power * square
    return grad_x, updated, value


def approximates_division(is_cuda: bool, dtype: torch.dtype) -> bool:
    """Whether kernels divide by an instruction of the GPU's."""
    return uses_ptx(is_cuda) and dtype == torch.float32
