"""Triton kernel that joins the gradients of queries, keys and values; see ``qkv_linear.py``."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.reduction import sum_rows
from .common.tiles import Tile, cdiv, slot_width

# Tiles that one program walks through.
_LOOPS = 16


@triton.jit
def _join_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    joined_ptr,
    partial_ptr,
    num_rows,
    tokens,
    batch_stride,
    head_stride,
    token_stride,
    CHANNELS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WITH_SUM: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """joined[b n, part h d] = part[b, h, n, d] for q, k and v, and for the reduction the sums over
    this program's rows."""
    part = tl.program_id(0) % 3
    if part == 0:
        source_ptr = q_ptr
    elif part == 1:
        source_ptr = k_ptr
    else:
        source_ptr = v_ptr
    column_tile = (tl.program_id(0) // 3) % COLUMN_TILES
    program_row = (tl.program_id(0) // (3 * COLUMN_TILES)).to(tl.int64)
    slot = column_tile * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    lane = tl.arange(0, VECTOR)[None, None, :]
    channel = slot * VECTOR + lane
    slot_mask = slot * VECTOR < CHANNELS
    # In slots, so that the compiler sees that addresses are multiples of them.
    SLOTS_OF_HEAD: tl.constexpr = HEAD_DIM // VECTOR
    source = slot // SLOTS_OF_HEAD * head_stride + slot % SLOTS_OF_HEAD * VECTOR + lane
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    total = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    for _ in range(LOOPS):
        mask = slot_mask & (row < num_rows)
        offset = (row // tokens) * batch_stride + (row % tokens) * token_stride + source
        grad = tl.load(source_ptr + offset, mask=mask, other=0.0)
        tl.store(joined_ptr + row * (3 * CHANNELS) + part * CHANNELS + channel, grad, mask=mask)
        if WITH_SUM:
            total += grad.to(tl.float32)
        row += ROWS
    if WITH_SUM:
        partial_ptr += program_row * (3 * CHANNELS) + part * CHANNELS
        tl.store(partial_ptr + channel, tl.sum(total, axis=0)[None, :, :], mask=slot_mask)


@cache_plan
def _plan(channels: int, head_dim: int, with_sum: bool, dtype: torch.dtype, loops: int) -> Plan:
    vector = slot_width(head_dim, 1, most=16 // dtype.itemsize)
    tile = Tile.of(channels // vector, vector, dtype.itemsize)
    return Plan(
        CHANNELS=channels,
        HEAD_DIM=head_dim,
        WITH_SUM=with_sum,
        COLUMN_TILES=cdiv(channels, tile.slots * vector),
        LOOPS=loops,
        **tile.constants(),
    )


def join_heads(q: Tensor, k: Tensor, v: Tensor, with_sum: bool) -> tuple[Tensor, Tensor | None]:
    """Three tensors of (B, H, N, d) as one of (B * N, 3 * H * d), and its sum over the rows."""
    batch, heads, tokens, head_dim = q.shape
    channels, num_rows = heads * head_dim, batch * tokens
    joined = q.new_empty(num_rows, 3 * channels)
    q, k, v = in_one_layout(q, k, v)
    plan = _plan(channels, head_dim, with_sum, q.dtype, _LOOPS)
    programs = cdiv(num_rows, plan['ROWS'] * _LOOPS)
    partial = q.new_empty(programs if with_sum else 0, 3 * channels, dtype=torch.float32)
    launch(
        _join_kernel,
        programs * plan['COLUMN_TILES'] * 3,
        plan,
        (q, k, v, joined, partial),
        (num_rows, tokens, *q.stride()[:3]),
    )
    return joined, sum_rows(partial) if with_sum else None


def in_one_layout(first: Tensor, *others: Tensor) -> tuple[Tensor, ...] | list[Tensor]:
    """Tensors with the strides of the first one, without its gaps where it has any."""
    if first.stride(-1) == 1 and all(tensor.stride() == first.stride() for tensor in others):
        return first, *others
    if first.stride(-1) != 1:
        first = first.contiguous()
    layout = torch.empty_like(first)
    return [
        tensor if tensor.stride() == layout.stride() else torch.empty_like(layout).copy_(tensor)
        for tensor in (first, *others)
    ]
