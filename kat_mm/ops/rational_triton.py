"""Arithmetic of rational functions inside Triton kernels, and the end of their reductions.

Kernels work on tiles (rows, slots, lanes): a slot is a run of ``VECTOR`` channels that share their
coefficients, held by one thread, so that a thread keeps one register for each coefficient and for
each of their gradients.

Coefficient gradients need no atomics. A program walks down several tiles, adds up in registers and
stores one partial sum for each slot; ``finish`` adds up the programs and the slots of each group.
The order is fixed: the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Constants, cache_plan, launch
from .tiles import cdiv

TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


# Sums that one program of ``finish`` adds up in the time that another launch would take.
_MOST_SUMS = 2**17


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
    # A constant too is undefined where x is.
    result = x * 0 + c[0] if COUNT == 1 else tl.zeros_like(x) + c[COUNT - 1]
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
        q = magnitude * 0 + 1
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
    """Gradient of x for a tile (rows, slots, lanes), ``sums`` with this tile's shares, and F(x).

    The sums are those of grad * x^i / Q for i = 0 to M, then of grad * F * |x|^j / Q for j = 1 to
    N: the gradients of the coefficients, but for the sign of the latter.
    """
    magnitude = tl.abs(x)
    reciprocal = _reciprocal_denominator(magnitude, b, N, APPROXIMATE)
    grad *= reciprocal
    value = _polynomial(x, a, M + 1) * reciprocal
    grad_q = grad * value
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
    return grad_x, updated, value


@triton.jit
def store_sums(pointer, sums, slot, mask, COUNT: tl.constexpr, num_slots, AXIS: tl.constexpr):
    """Store each sum, added up along AXIS of the tile, at [coefficient, slot]."""
    for i in tl.static_range(COUNT):
        tl.store(pointer + slot, tl.sum(sums[i], axis=AXIS), mask=mask)
        pointer += num_slots


@triton.jit
def _finish_kernel(
    partial_ptr,
    b_ptr,
    shifts_ptr,
    grad_a_ptr,
    grad_b_ptr,
    num_partials,
    NUM_SHIFTS: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    A_BLOCK: tl.constexpr,
    B_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
):
    NUM_A: tl.constexpr = A_GROUPS * (M + 1)
    NUM_B: tl.constexpr = B_GROUPS * N
    WIDTH: tl.constexpr = NUM_SHIFTS + (M + 1 + N) * NUM_SLOTS
    program = tl.program_id(0)
    if NUM_A > 0:
        if program < NUM_A:
            first = NUM_SHIFTS + program % (M + 1) * NUM_SLOTS
            first += program // (M + 1) * (NUM_SLOTS // A_GROUPS)
            sums = _sum_block(
                partial_ptr + first, num_partials, WIDTH, NUM_SLOTS // A_GROUPS, A_BLOCK, SIZE
            )
            tl.store(grad_a_ptr + program, tl.sum(sums))
    if NUM_B > 0:
        if (program >= NUM_A) & (program < NUM_A + NUM_B):
            index = program - NUM_A
            first = NUM_SHIFTS + (M + 1 + index % N) * NUM_SLOTS
            first += index // N * (NUM_SLOTS // B_GROUPS)
            b_sums = _sum_block(
                partial_ptr + first, num_partials, WIDTH, NUM_SLOTS // B_GROUPS, B_BLOCK, SIZE
            )
            # d|b|/db with sign(0) = +1: with 0 a denominator that starts at zero would stay there.
            sign = tl.where(tl.load(b_ptr + index) < 0, 1.0, -1.0)
            tl.store(grad_b_ptr + index, tl.sum(b_sums) * sign)
    if NUM_SHIFTS > 0:
        if program >= NUM_A + NUM_B:
            first = (program - NUM_A - NUM_B) * 32
            width = tl.minimum(NUM_SHIFTS - first, 32)
            columns = _sum_block(partial_ptr + first, num_partials, WIDTH, width, 32, SIZE)
            column = tl.arange(0, 32)
            tl.store(shifts_ptr + first + column, tl.sum(columns, axis=0), mask=column < width)


@triton.jit
def _sum_block(
    pointer, num_rows, WIDTH: tl.constexpr, width, BLOCK: tl.constexpr, SIZE: tl.constexpr
):
    """Add up (num_rows, width) numbers of rows of WIDTH into a tile (SIZE / BLOCK, BLOCK)."""
    ROWS: tl.constexpr = SIZE // BLOCK
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], pointer.dtype.element_ty)
    for first_row in range(0, num_rows, ROWS):
        rows = (first_row + row).to(tl.int64)
        for first in range(0, width, BLOCK):
            mask = (rows < num_rows) & (first + column < width)
            total += tl.load(pointer + rows * WIDTH + first + column, mask=mask, other=0.0)
    return total


def finish(
    partial: Tensor, num_shifts: int, numerator: Tensor | None, denominator: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Add up what the programs of a backward kernel stored.

    Args:
        partial: (programs, num_shifts + (m + 1 + n) * slots): sums for single channels (biases, the
            weights of a normalisation), then those for the coefficients.
        num_shifts: How many numbers are sums for single channels.
        numerator: The coefficients, (Gn, m + 1); none where there is no function.
        denominator: (Gd, n).

    Returns:
        The sums for single channels, (num_shifts,), and the gradients of the coefficients, none
        where there is no function.
    """
    shifts = partial.new_empty(num_shifts)
    if numerator is None:
        constants, programs = _finish_plan(
            num_shifts, num_shifts, (1, 0), (1, 0), (partial.dtype, None, None)
        )
        tensors = partial, None, shifts, None, None
        launch(_finish_kernel, programs, constants, tensors, (partial.shape[0],))
        return shifts, None, None
    grad_a, grad_b = torch.empty_like(numerator), torch.empty_like(denominator)
    shapes = numerator.shape, denominator.shape
    groups = min(shapes[0][0], shapes[1][0])
    num_sums = partial.shape[0] * (partial.shape[1] - num_shifts)
    if num_sums > _MOST_SUMS * groups * (numerator.shape[1] + denominator.shape[1]):
        partial = partial.sum(dim=0, keepdim=True)
    constants, programs = _finish_plan(
        partial.shape[1], num_shifts, *shapes, (partial.dtype, grad_a.dtype, grad_b.dtype)
    )
    tensors = partial, denominator, shifts, grad_a, grad_b
    launch(_finish_kernel, programs, constants, tensors, (partial.shape[0],))
    return shifts, grad_a, grad_b


@cache_plan
def _finish_plan(
    width: int,
    num_shifts: int,
    a_shape: torch.Size,
    b_shape: torch.Size,
    dtypes: tuple[torch.dtype, ...],
) -> tuple[Constants, int]:
    (a_groups, a_count), (b_groups, n) = a_shape, b_shape
    num_slots = (width - num_shifts) // max(a_count + n, 1)
    # Large tiles: a program has little else to hide the way to memory with.
    size = 8192
    a_block, b_block = (
        min(triton.next_power_of_2(max(num_slots // groups, 1)), 128)
        for groups in (a_groups, b_groups)
    )
    constants = Constants(
        NUM_SHIFTS=num_shifts,
        NUM_SLOTS=num_slots,
        A_GROUPS=a_groups,
        B_GROUPS=b_groups,
        M=a_count - 1,
        N=n,
        A_BLOCK=a_block,
        B_BLOCK=b_block,
        SIZE=size,
        num_warps=8,
    )
    return constants, a_groups * a_count + b_groups * n + cdiv(num_shifts, 32)


def approximate_division(is_cuda: bool, dtype: torch.dtype) -> bool:
    """Whether kernels may use PTX: not under the interpreter, nor on AMD."""
    return is_cuda and torch.version.hip is None and dtype == torch.float32
