"""Sums over many programs without atomics: the same input gives the same bits.

A program walks down several tiles, adds up in registers and stores one partial sum for each channel
or slot; ``finish`` adds up the programs, and the slots of each group, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Plan, cache_plan, launch
from .tiles import cdiv

# Sums that one program of ``finish`` adds up in the time that another launch would take.
_MOST_SUMS = 2**17


@triton.jit
def zero_sums(COUNT: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr, DTYPE: tl.constexpr):
    """COUNT sums of a tile, one for each row and slot, as a tuple."""
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (tl.zeros([ROWS, SLOTS], DTYPE),)
    return result


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
    """sum_p partial[p, c] for each channel c; for each coefficient i of a group, the sum of
    partial[p, i, s] over programs p and the slots s of the group."""
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


@cache_plan
def _plan(
    width: int,
    num_shifts: int,
    a_shape: torch.Size,
    b_shape: torch.Size,
    dtypes: tuple[torch.dtype, ...],
) -> Plan:
    (a_groups, a_count), (b_groups, n) = a_shape, b_shape
    num_slots = (width - num_shifts) // max(a_count + n, 1)
    # Large tiles: a program has little else to hide the way to memory with.
    size = 8192
    a_block, b_block = (
        min(triton.next_power_of_2(max(num_slots // groups, 1)), 128)
        for groups in (a_groups, b_groups)
    )
    return Plan(
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
    if numerator is None:
        return sum_rows(partial), None, None
    shifts = partial.new_empty(num_shifts)
    grad_a, grad_b = torch.empty_like(numerator), torch.empty_like(denominator)
    (a_groups, a_count), (b_groups, n) = shapes = numerator.shape, denominator.shape
    num_sums = partial.shape[0] * (partial.shape[1] - num_shifts)
    if num_sums > _MOST_SUMS * min(a_groups, b_groups) * (a_count + n):
        partial = sum_rows(partial)[None]
    plan = _plan(partial.shape[1], num_shifts, *shapes, (partial.dtype, grad_a.dtype, grad_b.dtype))
    programs = a_groups * a_count + b_groups * n + cdiv(num_shifts, 32)
    tensors = partial, denominator, shifts, grad_a, grad_b
    launch(_finish_kernel, programs, plan, tensors, (partial.shape[0],))
    return shifts, grad_a, grad_b


def sum_rows(partial: Tensor) -> Tensor:
    """(programs, n) to (n,)."""
    rows, width = partial.shape
    sums = partial.new_empty(width)
    plan = _plan(width, width, (1, 0), (1, 0), (partial.dtype, None, None))
    launch(_finish_kernel, cdiv(width, 32), plan, (partial, None, sums, None, None), (rows,))
    return sums
