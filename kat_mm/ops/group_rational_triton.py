"""Triton kernels of the group-rational function, and their launch.

A program owns a tile of rows x channels. Where a cell (a run of channels with one numerator and one
denominator) is wide, the tile stays inside it and the coefficients are scalars; where cells are
narrow, the tile spans several and the coefficients are one row of the tile.

Coefficient gradients need no atomics: a program walks down ``LOOPS`` tiles, sums each thread's
neighbouring elements in registers, and stores one partial sum per coefficient; a second, tiny
reduction adds the partial sums in a fixed order. The same input gives the same bits.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .group_rational_eager import coefficient_sign, compute_dtype, group_sum

# Cells narrower than this share a tile.
_MIN_CELL_TILE = 16


@triton.jit
def _column_tile(
    tile,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SCALAR: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Channels of a tile (1, BLOCK_C), their mask, and their cell."""
    WIDTH: tl.constexpr = CHANNELS // CELLS
    local = tl.arange(0, BLOCK_C)[None, :]
    if SCALAR:
        TILES_PER_CELL: tl.constexpr = (WIDTH + BLOCK_C - 1) // BLOCK_C
        cell = tile // TILES_PER_CELL
        local += (tile % TILES_PER_CELL) * BLOCK_C
        channels = tl.multiple_of(cell * WIDTH, VECTOR) + local
        mask = local < WIDTH
    else:
        channels = tile * BLOCK_C + local
        mask = channels < CHANNELS
        cell = tl.where(mask, channels // WIDTH, 0)
    return channels, mask, cell


@triton.jit
def _load_coefficients(
    pointer, cell, COUNT: tl.constexpr, PARTS: tl.constexpr, DTYPE: tl.constexpr
):
    """The COUNT coefficients of ``cell``, where PARTS neighbouring cells share a group."""
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.load(pointer + (cell // PARTS) * COUNT + i).to(DTYPE),)
    return result


@triton.jit
def _polynomial(x, c, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """c[FIRST] + c[FIRST + 1] x + ... up to c[COUNT - 1]"""
    result = tl.zeros_like(x) + c[COUNT - 1]
    for i in tl.static_range(COUNT - 1 - FIRST):
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
def _denominator(magnitude, b, N: tl.constexpr):
    """Q(x) from |x| and |b|."""
    if N == 0:
        q = tl.zeros_like(magnitude) + 1
    else:
        q = _polynomial(magnitude, b, 0, N) * magnitude + 1
    return q


@triton.jit
def _absolute(values, COUNT: tl.constexpr):
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.abs(values[i]),)
    return result


@triton.jit
def _forward_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    num_rows,
    x_stride,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
    A_PARTS: tl.constexpr,
    B_PARTS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SCALAR: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
):
    column_tile = tl.program_id(0) % COLUMN_TILES
    row_tile = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    channels, mask, cell = _column_tile(column_tile, CHANNELS, CELLS, BLOCK_C, SCALAR, VECTOR)
    a = _load_coefficients(a_ptr, cell, M + 1, A_PARTS, DTYPE)
    b = _absolute(_load_coefficients(b_ptr, cell, N, B_PARTS, DTYPE), N)
    rows = row_tile * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    mask = mask & (rows < num_rows)
    x = tl.load(x_ptr + rows * x_stride + channels, mask=mask, other=0.0).to(DTYPE)
    y = _polynomial(x, a, 0, M + 1) * _reciprocal(_denominator(tl.abs(x), b, N), APPROXIMATE)
    tl.store(y_ptr + rows * CHANNELS + channels, y, mask=mask)


@triton.jit
def _partial_zeros(
    COUNT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SCALAR: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
):
    result = ()
    for _ in tl.static_range(COUNT):
        if SCALAR:
            result = result + (tl.zeros([BLOCK_R, BLOCK_C // VECTOR], DTYPE),)
        else:
            result = result + (tl.zeros([BLOCK_R, BLOCK_C], DTYPE),)
    return result


@triton.jit
def _fold(
    value, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SCALAR: tl.constexpr, VECTOR: tl.constexpr
):
    """Sum what one thread holds next to each other, which costs no communication."""
    if SCALAR:
        value = tl.sum(tl.reshape(value, (BLOCK_R, BLOCK_C // VECTOR, VECTOR)), axis=2)
    return value


@triton.jit
def _reciprocal(q, APPROXIMATE: tl.constexpr):
    """1 / q for q >= 1."""
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
def _backward_kernel(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    partial_ptr,
    a_ptr,
    b_ptr,
    num_rows,
    grad_stride,
    x_stride,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
    A_PARTS: tl.constexpr,
    B_PARTS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SCALAR: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    column_tile = tl.program_id(0) % COLUMN_TILES
    row_tile = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    channels, channel_mask, cell = _column_tile(
        column_tile, CHANNELS, CELLS, BLOCK_C, SCALAR, VECTOR
    )
    a = _load_coefficients(a_ptr, cell, M + 1, A_PARTS, DTYPE)
    b = _absolute(_load_coefficients(b_ptr, cell, N, B_PARTS, DTYPE), N)
    sums = _partial_zeros(M + 1 + N, BLOCK_R, BLOCK_C, SCALAR, VECTOR, DTYPE)
    first_row = row_tile * (BLOCK_R * LOOPS)
    for step in range(LOOPS):
        rows = first_row + step * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        mask = channel_mask & (rows < num_rows)
        x = tl.load(x_ptr + rows * x_stride + channels, mask=mask, other=0.0).to(DTYPE)
        grad = tl.load(grad_ptr + rows * grad_stride + channels, mask=mask, other=0.0).to(DTYPE)
        magnitude = tl.abs(x)
        reciprocal = _reciprocal(_denominator(magnitude, b, N), APPROXIMATE)
        y = _polynomial(x, a, 0, M + 1) * reciprocal
        grad *= reciprocal
        # dQ/dx = sign(x) dQ/d|x|
        slope = _times_sign(_derivative(magnitude, b, 0, N) * y, x, DTYPE)
        slope = _derivative(x, a, 1, M + 1) - slope
        tl.store(grad_x_ptr + rows * CHANNELS + channels, slope * grad, mask=mask)

        # grad * x^i as (grad or grad * x) * (x^2)^k: one fused multiply-add for each sum.
        square = x * x
        updated = ()
        even, odd, power = grad, grad * x, square
        for i in tl.static_range(M + 1):
            term = even if i % 2 == 0 else odd
            if i > 1:
                term = term * power
            updated = updated + (sums[i] + _fold(term, BLOCK_R, BLOCK_C, SCALAR, VECTOR),)
            if i > 1 and i % 2 == 1:
                power = power * square
        even = grad * y
        odd = even * magnitude
        power = square
        for j in tl.static_range(1, N + 1):
            term = even if j % 2 == 0 else odd
            if j > 1:
                term = term * power
            folded = _fold(term, BLOCK_R, BLOCK_C, SCALAR, VECTOR)
            updated = updated + (sums[M + j] + folded,)
            if j > 1 and j % 2 == 1:
                power = power * square
        sums = updated

    if SCALAR:
        partial_ptr += tl.program_id(0).to(tl.int64) * (M + 1 + N)
        for i in tl.static_range(M + 1 + N):
            tl.store(partial_ptr + i, tl.sum(sums[i]))
    else:
        partial_ptr += (row_tile * CHANNELS + channels) * (M + 1 + N)
        for i in tl.static_range(M + 1 + N):
            tl.store(partial_ptr + i, tl.sum(sums[i], axis=0)[None, :], mask=channel_mask)


class _Tiling(NamedTuple):
    """How the (rows, channels) plane is cut; see the module's docstring."""

    scalar: bool
    vector: int  # neighbouring channels held by one thread
    block_r: int
    block_c: int
    column_tiles: int
    num_warps: int

    @classmethod
    def of(cls, channels: int, cells: int, itemsize: int) -> '_Tiling':
        width, num_warps = channels // cells, 4
        scalar = width >= _MIN_CELL_TILE
        if scalar:
            # A tile that divides the cell wastes no threads; narrower ones waste bandwidth.
            divisor = width & -width
            block_c = min(divisor if divisor >= 32 else triton.next_power_of_2(width), 128)
            column_tiles = cells * triton.cdiv(width, block_c)
        else:
            block_c = min(triton.next_power_of_2(channels), 128)
            column_tiles = triton.cdiv(channels, block_c)
        # 16-byte accesses where every row and every cell starts on such a boundary.
        vector = 16 // itemsize
        while width % vector:
            vector //= 2
        vector = min(vector, block_c)
        block_r = max(1, 32 * num_warps * 16 // itemsize // block_c)
        return cls(scalar, vector, block_r, block_c, column_tiles, num_warps)


# Row tiles that one program of the backward kernel walks down.
_LOOPS = 16

_TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


def _rows(x: Tensor) -> Tensor:
    """(..., C) as (rows, C) with unit channel stride, without a copy where strides allow it."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def _common(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[_Tiling, dict]:
    channels, cells = x.shape[-1], math.lcm(len(numerator), len(denominator))
    tiling = _Tiling.of(channels, cells, x.element_size())
    dtype = compute_dtype(x, numerator, denominator)
    constants = dict(
        CHANNELS=channels,
        CELLS=cells,
        A_PARTS=cells // numerator.shape[0],
        B_PARTS=cells // denominator.shape[0],
        M=numerator.shape[1] - 1,
        N=denominator.shape[1],
        DTYPE=_TRITON_DTYPE[dtype],
        # PTX: not under the interpreter, nor on AMD.
        APPROXIMATE=x.is_cuda and torch.version.hip is None and dtype == torch.float32,
        SCALAR=tiling.scalar,
        VECTOR=tiling.vector,
        BLOCK_R=tiling.block_r,
        BLOCK_C=tiling.block_c,
        COLUMN_TILES=tiling.column_tiles,
        num_warps=tiling.num_warps,
    )
    return tiling, constants


def _device_guard(x: Tensor):
    """Kernels launch on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(x)


def forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """F(x); see ``group_rational``."""
    rows = _rows(x)
    y = x.new_empty(x.shape)
    if x.numel():
        tiling, constants = _common(x, numerator, denominator)
        # One grid axis: the others stop at 65535 programs.
        grid = (tiling.column_tiles * triton.cdiv(len(rows), tiling.block_r),)
        with _device_guard(x):
            _forward_kernel[grid](
                rows,
                y,
                numerator.contiguous(),
                denominator.contiguous(),
                len(rows),
                rows.stride(0),
                **constants,
            )
    return y


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``numerator`` and ``denominator``; see ``group_rational``."""
    rows, grad_rows = _rows(x), _rows(grad)
    grad_x = x.new_empty(x.shape)
    if not x.numel():
        return grad_x, torch.zeros_like(numerator), torch.zeros_like(denominator)
    tiling, constants = _common(x, numerator, denominator)
    row_tiles = triton.cdiv(len(rows), tiling.block_r * _LOOPS)
    partial = x.new_empty(
        row_tiles,
        tiling.column_tiles if tiling.scalar else x.shape[-1],
        numerator.shape[1] + denominator.shape[1],
        dtype=compute_dtype(x, numerator, denominator),
    )
    with _device_guard(x):
        _backward_kernel[(tiling.column_tiles * row_tiles,)](
            grad_rows,
            rows,
            grad_x,
            partial,
            numerator.contiguous(),
            denominator.contiguous(),
            len(rows),
            grad_rows.stride(0),
            rows.stride(0),
            LOOPS=_LOOPS,
            **constants,
        )
    grad_a, grad_b = partial.sum(dim=0).split([numerator.shape[1], denominator.shape[1]], dim=-1)
    return (
        grad_x,
        group_sum(grad_a, numerator),
        group_sum(grad_b, denominator) * -coefficient_sign(denominator),
    )
