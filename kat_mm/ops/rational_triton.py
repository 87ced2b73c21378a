"""Arithmetic of rational functions inside Triton kernels, and the end of their reductions.

Kernels work on tiles (rows, slots, lanes): a slot is a run of ``VECTOR`` channels that share their
coefficients, held by one thread, so that a thread keeps one register for each coefficient and for
each of their gradients.

Coefficient gradients need no atomics. A program walks down several tiles, adds up in registers and
stores one partial sum for each slot; PyTorch adds the programs' rows, and ``finish_kernel`` the
slots of each group. The order is fixed: the same input gives the same bits.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Constants, launch

TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


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
def _polynomial(x, c, COUNT: tl.constexpr):
    """c[0] + c[1] x + ... up to c[COUNT - 1]"""
    result = tl.zeros_like(x) + c[COUNT - 1]
    for i in tl.static_range(COUNT - 1):
        result = result * x + c[COUNT - 2 - i]
    return result


@triton.jit
def _derivative(x, c, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """sum of power * c[i] * x^(power - 1), where c[i] belongs to power i + 1 - FIRST"""
    result = tl.zeros_like(x)
    for i in tl.static_range(COUNT - FIRST):
        result = result * x + (COUNT - FIRST - i) * c[COUNT - 1 - i]
    return result


@triton.jit
def _reciprocal_denominator(magnitude, b, N: tl.constexpr, APPROXIMATE: tl.constexpr):
    """1 / Q(x) from |x| and |b|; Q is at least 1."""
    if N == 0:
        q = tl.zeros_like(magnitude) + 1
    else:
        q = _polynomial(magnitude, b, N) * magnitude + 1
    if APPROXIMATE:
        # A division takes five more instructions, for numbers that q cannot be.
        q = tl.inline_asm_elementwise(
            'rcp.approx.ftz.f32 $0, $1;', '=f,f', [q], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        q = 1.0 / q
    return q


@triton.jit
def _times_sign(value, x, DTYPE: tl.constexpr):
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
    return _polynomial(x, a, M + 1) * _reciprocal_denominator(tl.abs(x), b, N, APPROXIMATE)


@triton.jit
def zero_sums(COUNT: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr, DTYPE: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (tl.zeros([ROWS, SLOTS], DTYPE),)
    return result


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
    """Gradient of x for a tile (rows, slots, lanes), and ``sums`` with this tile's shares.

    The sums are those of grad * x^i / Q for i = 0 to M, then of grad * F * |x|^j / Q for j = 1 to
    N: the gradients of the coefficients, but for the sign of the latter.
    """
    magnitude = tl.abs(x)
    reciprocal = _reciprocal_denominator(magnitude, b, N, APPROXIMATE)
    grad *= reciprocal
    grad_q = grad * (_polynomial(x, a, M + 1) * reciprocal)
    # dQ/dx = sign(x) dQ/d|x|
    slope = _times_sign(_derivative(magnitude, b, 0, N), x, DTYPE)
    grad_x = _derivative(x, a, 1, M + 1) * grad - slope * grad_q

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
    return grad_x, updated


@triton.jit
def store_sums(pointer, sums, slot, mask, COUNT: tl.constexpr, num_slots, AXIS: tl.constexpr):
    """Store each sum, added up along AXIS of the tile, at [coefficient, slot]."""
    for i in tl.static_range(COUNT):
        tl.store(pointer + i * num_slots + slot, tl.sum(sums[i], axis=AXIS), mask=mask)


@triton.jit
def finish_kernel(
    sums_ptr,
    b_ptr,
    grad_a_ptr,
    grad_b_ptr,
    NUM_SLOTS: tl.constexpr,
    OFFSET: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the slots of each group: (M + 1 + N, NUM_SLOTS) to (A_GROUPS, M + 1), (B_GROUPS, N).

    One program for each coefficient of each group.
    """
    program = tl.program_id(0)
    is_a = program < A_GROUPS * (M + 1)
    index = tl.where(is_a, program, program - A_GROUPS * (M + 1))
    orders = tl.where(is_a, M + 1, N)
    width = tl.where(is_a, NUM_SLOTS // A_GROUPS, NUM_SLOTS // B_GROUPS)
    order = index % orders + tl.where(is_a, 0, M + 1)
    sums_ptr += OFFSET + order * NUM_SLOTS + (index // orders) * width
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], sums_ptr.dtype.element_ty)
    for start in range(0, width, BLOCK):
        total += tl.load(sums_ptr + start + offsets, mask=start + offsets < width, other=0.0)
    result = tl.sum(total)
    if is_a:
        tl.store(grad_a_ptr + index, result)
    else:
        # d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there.
        negative = tl.load(b_ptr + index).to(tl.float32) < 0
        tl.store(grad_b_ptr + index, tl.where(negative, result, -result))


def finish(
    sums: Tensor, num_slots: int, offset: int, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the coefficients from (m + 1 + n) * num_slots sums behind an offset."""
    grad_a = numerator.new_empty(numerator.shape)
    grad_b = denominator.new_empty(denominator.shape)
    constants = _finish_constants(num_slots, offset, *numerator.shape, *denominator.shape)
    programs = grad_a.numel() + grad_b.numel()
    launch(finish_kernel, programs, constants, sums, denominator, grad_a, grad_b)
    return grad_a, grad_b


@functools.cache
def _finish_constants(
    num_slots: int, offset: int, a_groups: int, a_count: int, b_groups: int, b_count: int
) -> Constants:
    return Constants(
        NUM_SLOTS=num_slots,
        OFFSET=offset,
        A_GROUPS=a_groups,
        B_GROUPS=b_groups,
        M=a_count - 1,
        N=b_count,
        BLOCK=min(triton.next_power_of_2(num_slots), 512),
        num_warps=1 if num_slots <= 128 else 4,
    )


def approximate_division(is_cuda: bool, dtype: torch.dtype) -> bool:
    """Whether kernels may use PTX: not under the interpreter, nor on AMD."""
    return is_cuda and torch.version.hip is None and dtype == torch.float32
