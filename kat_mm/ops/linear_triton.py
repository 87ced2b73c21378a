"""Triton kernel that adds up the rows of a matrix: the gradient of a linear map's bias."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.reduction import sum_rows
from .common.tiles import Tile, cdiv, slot_width

# Tiles that one program walks through.
_LOOPS = 32


@triton.jit
def _column_sum_kernel(
    x_ptr,
    partial_ptr,
    num_rows,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """For the reduction: the sum over this program's rows of each channel."""
    slot = (tl.program_id(0) % COLUMN_TILES) * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    mask = slot * VECTOR < CHANNELS
    program_row = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    total = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    for _ in range(LOOPS):
        x = tl.load(x_ptr + row * CHANNELS + channel, mask=mask & (row < num_rows), other=0.0)
        total += x.to(tl.float32)
        row += ROWS
    total = tl.sum(total, axis=0)[None, :, :]
    tl.store(partial_ptr + program_row * CHANNELS + channel, total, mask=mask)


@cache_plan
def _plan(channels: int, dtype: torch.dtype, loops: int) -> Plan:
    vector = slot_width(channels, 1, most=16 // dtype.itemsize)
    tile = Tile.of(channels // vector, vector, dtype.itemsize)
    return Plan(
        CHANNELS=channels,
        COLUMN_TILES=cdiv(channels, tile.slots * vector),
        LOOPS=loops,
        **tile.constants(),
    )


def column_sum(x: Tensor) -> Tensor:
    """Sum of the rows of a contiguous (rows, C) tensor, in float32."""
    num_rows, channels = x.shape
    plan = _plan(channels, x.dtype, _LOOPS)
    programs = cdiv(num_rows, plan['ROWS'] * _LOOPS)
    partial = x.new_empty(programs, channels, dtype=torch.float32)
    launch(
        _column_sum_kernel,
        programs * plan['COLUMN_TILES'],
        plan,
        (x, partial),
        (num_rows,),
    )
    return sum_rows(partial)
