"""Triton kernel of a linear map whose epilogue applies the rational function; its launch.

A program multiplies one tile after the other, and before it writes a tile it adds the bias and
evaluates the function: what the product gave need not be read again, nor written where no gradient
asks for it. A tile is cut into parts that lie in one group each, so that the coefficients of a part
are single numbers.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor

from .common.dtypes import HALF, rational_dtype
from .common.launch import Plan, cache_plan, launch
from .common.rational import approximates_division, evaluate, load_coefficients, load_magnitudes
from .common.tiles import cdiv, contiguous, slot_width

# Rows of tiles whose columns are walked through together: they share operands in the cache.
_BAND = 8


class Tiling(NamedTuple):
    """How a product is cut."""

    rows: int
    """Of a tile."""
    columns: int
    depth: int
    """Of a step along the channels that are summed."""
    stages: int
    """Steps that are on their way at once."""
    warps: int
    programs: int
    """Of a multiprocessor."""
    descriptors: bool
    """Whether operands and results are moved by the tensor memory accelerator."""


@triton.jit
def _split(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LEVELS: tl.constexpr):
    """A tile's 2 ** LEVELS parts, from left to right."""
    parts = (tile,)
    for level in tl.static_range(LEVELS):
        halves = ()
        for i in tl.static_range(2**level):
            pair = tl.reshape(parts[i], [ROWS, 2, COLUMNS // 2 ** (level + 1)])
            left, right = tl.split(tl.permute(pair, [0, 2, 1]))
            halves = halves + (left, right)
        parts = halves
    return parts


@triton.jit
def _linear_rational_kernel(
    x_ptr,
    weight_ptr,
    hidden_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    bias_ptr,
    num_rows,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    KEEP: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    LEVELS: tl.constexpr,
    BAND: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """hidden = x weight^T, where it is kept, and y = F(hidden + bias), tile by tile."""
    COLUMN_TILES: tl.constexpr = (HIDDEN + COLUMNS - 1) // COLUMNS
    WIDTH: tl.constexpr = COLUMNS // 2**LEVELS
    if DESCRIPTORS:
        x_block = tl.make_tensor_descriptor(
            x_ptr, [num_rows, CHANNELS], [CHANNELS, 1], [ROWS, DEPTH]
        )
        weight_block = tl.make_tensor_descriptor(
            weight_ptr, [HIDDEN, CHANNELS], [CHANNELS, 1], [COLUMNS, DEPTH]
        )
        y_block = tl.make_tensor_descriptor(y_ptr, [num_rows, HIDDEN], [HIDDEN, 1], [ROWS, WIDTH])
        if KEEP:
            hidden_block = tl.make_tensor_descriptor(
                hidden_ptr, [num_rows, HIDDEN], [HIDDEN, 1], [ROWS, WIDTH]
            )
    row_tiles = tl.cdiv(num_rows, ROWS)
    tiles = row_tiles * COLUMN_TILES
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        first = tile // (BAND * COLUMN_TILES) * BAND
        height = tl.minimum(row_tiles - first, BAND)
        inside = tile % (BAND * COLUMN_TILES)
        row, column = (first + inside % height) * ROWS, inside // height * COLUMNS
        # Rows beyond the end are computed from the last one, and not stored.
        rows = tl.minimum(tl.arange(0, ROWS), num_rows - 1 - row)
        columns = tl.minimum(tl.arange(0, COLUMNS), HIDDEN - 1 - column)
        depth = tl.arange(0, DEPTH)
        x_tile = x_ptr + row.to(tl.int64) * CHANNELS + rows[:, None] * CHANNELS + depth[None, :]
        weight_tile = weight_ptr + column.to(tl.int64) * CHANNELS
        weight_tile += columns[None, :] * CHANNELS + depth[:, None]
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, CHANNELS, DEPTH):
            if DESCRIPTORS:
                left = x_block.load([row, k])
                right = weight_block.load([column, k]).T
            elif CHANNELS % DEPTH == 0:
                left = tl.load(x_tile + k)
                right = tl.load(weight_tile + k)
            else:
                left = tl.load(x_tile + k, mask=depth[None, :] < CHANNELS - k, other=0.0)
                right = tl.load(weight_tile + k, mask=depth[:, None] < CHANNELS - k, other=0.0)
            total = tl.dot(left, right, total)
        parts = _split(total, ROWS, COLUMNS, LEVELS)
        for i in tl.static_range(2**LEVELS):
            start = column + i * WIDTH
            # A part may begin beyond the last column.
            inside_groups = tl.minimum(start, HIDDEN - 1)
            a = load_coefficients(a_ptr, inside_groups // (HIDDEN // A_GROUPS), M + 1, tl.float32)
            b = load_magnitudes(b_ptr, inside_groups // (HIDDEN // B_GROUPS), N, tl.float32)
            lane = tl.arange(0, WIDTH)
            # Backward starts from the rounded number, and so does this.
            hidden = parts[i].to(y_ptr.dtype.element_ty)
            mask = start + lane[None, :] < HIDDEN
            bias = tl.load(bias_ptr + start + lane[None, :], mask=mask, other=0.0)
            y = evaluate(hidden.to(tl.float32) + bias.to(tl.float32), a, b, M, N, APPROXIMATE).to(
                y_ptr.dtype.element_ty
            )
            if DESCRIPTORS:
                if KEEP:
                    hidden_block.store([row, start], hidden)
                y_block.store([row, start], y)
            else:
                row_in_tile = tl.arange(0, ROWS)[:, None]
                mask = mask & (row_in_tile < num_rows - row)
                offset = row_in_tile * HIDDEN + lane[None, :]
                origin = row.to(tl.int64) * HIDDEN + start
                if KEEP:
                    tl.store(hidden_ptr + origin + offset, hidden, mask=mask)
                tl.store(y_ptr + origin + offset, y, mask=mask)


# Where the kernel is faster than a product and a kernel after it, by C_in and C_out: tilings where
# the product is kept and where it is not, and the fewest rows that were measured (on an H100, by
# benchmarks/products.py). Small tiles leave room for two programs, of which one multiplies while
# the other writes; with more channels their operands would pass through the cache too often.
_SMALL = Tiling(128, 128, 64, 3, 8, 2, True), Tiling(128, 128, 64, 3, 4, 2, True)
_LARGE = Tiling(128, 256, 64, 3, 8, 1, False), Tiling(128, 256, 64, 4, 8, 1, True)
CHOICE = {
    (192, 768): (*_SMALL, 50432),
    (384, 1536): (*_SMALL, 50432),
    (768, 3072): (*_LARGE, 8192),
    (1024, 4096): (*_LARGE, 12608),
}


def tiling_for(
    x: Tensor, weight: Tensor, numerator: Tensor, denominator: Tensor, keep: bool
) -> Tiling | None:
    """How the kernel cuts this product, or None where a product and a kernel after it serve.

    The one place that decides.
    """
    if not x.is_cuda or x.dtype not in HALF or not _multiprocessors(x.device):
        return None
    hidden, channels = map(int, weight.shape)  # which a compiler may leave open
    with_product, without, least_rows = CHOICE.get((channels, hidden), (None, None, 0))
    groups = numerator.shape[0], denominator.shape[0]
    dtypes = x.dtype, numerator.dtype, denominator.dtype
    measured = (
        with_product is not None
        and slot_width(hidden, *groups, most=32) == 32
        and rational_dtype(dtypes, numerator.shape, denominator.shape) == torch.float32
        and x.numel() >= least_rows * channels
    )
    return (with_product if keep else without) if measured else None


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    """Of a GPU of the kind that was measured, Hopper; 0 of all others."""
    properties = torch.cuda.get_device_properties(device)
    fits = torch.version.hip is None and (properties.major, properties.minor) == (9, 0)
    return properties.multi_processor_count if fits else 0


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    keep: bool,
    tiling: Tiling,
) -> tuple[Tensor, Tensor]:
    """F(x @ weight.T + bias) and, where it is kept, x @ weight.T, rounded: (..., C_out) each.

    x is of (..., C_in), weight of (C_out, C_in), both of one half dtype.
    """
    y, hidden = empty(x, weight, keep)
    if not x.numel():
        return y, hidden
    dtypes = x.dtype, numerator.dtype, denominator.dtype, bias.dtype
    shapes = weight.shape, numerator.shape, denominator.shape
    count = x.numel() // x.shape[-1]
    tiles = cdiv(count, tiling.rows) * cdiv(len(weight), tiling.columns)
    if tiling.descriptors:
        _provide_memory()
    launch(
        _linear_rational_kernel,
        min(tiles, tiling.programs * (_multiprocessors(x.device) if x.is_cuda else 1)),
        _plan(*shapes, dtypes, keep, tiling, x.is_cuda),
        (
            *map(_aligned, (x, weight)),
            hidden if keep else None,
            y,
            *map(contiguous, (numerator, denominator, bias)),
        ),
        (count,),
    )
    return y, hidden


def empty(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Uninitialised results."""
    y = x.new_empty(*x.shape[:-1], len(weight))
    return y, torch.empty_like(y) if keep else x.new_empty(0)


@cache_plan
def _plan(
    weight_shape: torch.Size,
    a_shape: torch.Size,
    b_shape: torch.Size,
    dtypes: tuple[torch.dtype, ...],
    keep: bool,
    tiling: Tiling,
    is_cuda: bool,
) -> Plan:
    part = slot_width(weight_shape[0], a_shape[0], b_shape[0], most=min(tiling.columns, 128))
    return Plan(
        CHANNELS=weight_shape[1],
        HIDDEN=weight_shape[0],
        A_GROUPS=a_shape[0],
        B_GROUPS=b_shape[0],
        M=a_shape[1] - 1,
        N=b_shape[1],
        KEEP=keep,
        APPROXIMATE=approximates_division(is_cuda, torch.float32),
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        LEVELS=(tiling.columns // part).bit_length() - 1,
        BAND=_BAND,
        DESCRIPTORS=tiling.descriptors,
        num_stages=tiling.stages,
        num_warps=tiling.warps,
    )


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor without gaps, at an address where a descriptor can start."""
    tensor = tensor.contiguous()
    # A compiler sees to that itself, and has no address yet.
    misaligned = not isinstance(tensor, FunctionalTensor) and tensor.data_ptr() % 16
    return tensor.clone() if misaligned else tensor


def _provide_memory() -> None:
    """Descriptors that a kernel makes lie in memory that Triton asks an allocator for."""
    allocator = triton.runtime._allocation._allocator
    if isinstance(allocator.get(), triton.runtime._allocation.NullAllocator):
        triton.set_allocator(_allocate)


def _allocate(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device='cuda')
