"""Triton kernels that turn queries and keys; see ``rotate.py``.

A thread holds neighbouring planes of channels: 16 bytes of each half of a head, or, where planes
are neighbouring channels, 16 bytes in one piece. The heads of a tile read the same angles, which
come from the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.reduction import sum_rows
from .common.tiles import Tile, cdiv, slot_width
from .qkv_linear_triton import in_one_layout

# Tiles that one program walks through.
_FORWARD_LOOPS = 2
_BACKWARD_LOOPS = 16


@triton.jit
def _load_planes(
    pointers,
    mask,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Both channels of each plane, in float32."""
    if PAIRS:
        x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(x, [ROWS, SLOTS, VECTOR, 2]))
    else:
        first = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(pointers + HALF, mask=mask, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _store_planes(
    pointers,
    first,
    second,
    mask,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    if PAIRS:
        x = tl.reshape(tl.join(first, second), [ROWS, SLOTS, 2 * VECTOR])
        tl.store(pointers, x, mask=mask)
    else:
        tl.store(pointers, first, mask=mask)
        tl.store(pointers + HALF, second, mask=mask)


@triton.jit
def _rotate_kernel(
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    num_rows,
    table_rows,
    CHANNELS: tl.constexpr,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """(a, b) = (a cos - b sin, b cos + a sin) for each plane of queries and keys, in place."""
    part = tl.program_id(0) % 2
    column_tile = (tl.program_id(0) // 2) % COLUMN_TILES
    program_row = tl.program_id(0) // (2 * COLUMN_TILES)
    slot = column_tile * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    slot_mask = slot * VECTOR < CHANNELS // 2
    # In slots, so that the compiler sees that addresses are multiples of them.
    head = slot // (HALF // VECTOR)
    plane = slot % (HALF // VECTOR) * VECTOR
    lane = tl.arange(0, VECTOR)[None, None, :]
    if PAIRS:
        channel = head * (2 * HALF) + plane * 2 + tl.arange(0, 2 * VECTOR)[None, None, :]
    else:
        channel = head * (2 * HALF) + plane + lane
    qkv_ptr += part * CHANNELS
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    for _ in range(LOOPS):
        mask = slot_mask & (row < num_rows)
        table = (row % table_rows) * HALF + plane + lane
        cos = tl.load(cos_ptr + table, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + table, mask=mask, other=0.0)
        pointers = qkv_ptr + row.to(tl.int64) * (3 * CHANNELS) + channel
        first, second = _load_planes(pointers, mask, HALF, PAIRS, ROWS, SLOTS, VECTOR)
        turned = first * cos - second * sin
        second = second * cos + first * sin
        _store_planes(pointers, turned, second, mask, HALF, PAIRS, ROWS, SLOTS, VECTOR)
        row += ROWS


@triton.jit
def _join_rotated_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    joined_ptr,
    partial_ptr,
    num_rows,
    table_rows,
    tokens,
    batch_stride,
    head_stride,
    token_stride,
    CHANNELS: tl.constexpr,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    WITH_SUM: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """joined[b n, part h d] = part[b, h, n, d], of queries and keys turned back: (a cos + b sin,
    b cos - a sin) for each plane; and for the reduction the sums over this program's rows."""
    part = tl.program_id(0) % 3
    if part == 0:
        source_ptr = q_ptr
    elif part == 1:
        source_ptr = k_ptr
    else:
        source_ptr = v_ptr
    column_tile = (tl.program_id(0) // 3) % COLUMN_TILES
    program_row = tl.program_id(0) // (3 * COLUMN_TILES)
    slot = column_tile * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    slot_mask = slot * VECTOR < CHANNELS // 2
    # In slots, so that the compiler sees that addresses are multiples of them.
    head = slot // (HALF // VECTOR)
    plane = slot % (HALF // VECTOR) * VECTOR
    lane = tl.arange(0, VECTOR)[None, None, :]
    if PAIRS:
        channel = plane * 2 + tl.arange(0, 2 * VECTOR)[None, None, :]
        first_channel = head * (2 * HALF) + (plane + lane) * 2
        SECOND: tl.constexpr = 1
    else:
        channel = plane + lane
        first_channel = head * (2 * HALF) + channel
        SECOND: tl.constexpr = HALF
    source = head * head_stride + channel
    target = part * CHANNELS + head * (2 * HALF) + channel
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    if WITH_SUM:
        first_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
        second_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    for _ in range(LOOPS):
        mask = slot_mask & (row < num_rows)
        table = (row % table_rows) * HALF + plane + lane
        # Values are not turned.
        turns = mask & (part < 2)
        cos = tl.load(cos_ptr + table, mask=turns, other=1.0)
        sin = tl.load(sin_ptr + table, mask=turns, other=0.0)
        sample = (row // tokens).to(tl.int64)
        token = (row % tokens).to(tl.int64)
        pointers = source_ptr + sample * batch_stride + token * token_stride + source
        first, second = _load_planes(pointers, mask, HALF, PAIRS, ROWS, SLOTS, VECTOR)
        turned = first * cos + second * sin
        second = second * cos - first * sin
        pointers = joined_ptr + row.to(tl.int64) * (3 * CHANNELS) + target
        _store_planes(pointers, turned, second, mask, HALF, PAIRS, ROWS, SLOTS, VECTOR)
        if WITH_SUM:
            first_sum += turned
            second_sum += second
        row += ROWS
    if WITH_SUM:
        partial_ptr += program_row.to(tl.int64) * (3 * CHANNELS) + part * CHANNELS
        first_sum = tl.sum(first_sum, axis=0)[None, :, :]
        second_sum = tl.sum(second_sum, axis=0)[None, :, :]
        tl.store(partial_ptr + first_channel, first_sum, mask=slot_mask)
        tl.store(partial_ptr + first_channel + SECOND, second_sum, mask=slot_mask)


@cache_plan
def _plan(
    channels: int, half: int, halves: bool, dtype: torch.dtype, loops: int, **others: bool
) -> Plan:
    # 16 bytes of each half, or of both channels of a plane together.
    vector = slot_width(half, 1, most=16 // dtype.itemsize // (1 if halves else 2))
    num_slots = channels // 2 // vector
    tile = Tile.of(num_slots, vector, dtype.itemsize * (1 if halves else 2))
    return Plan(
        CHANNELS=channels,
        HALF=half,
        PAIRS=not halves,
        COLUMN_TILES=cdiv(num_slots, tile.slots),
        LOOPS=loops,
        **others,
        **tile.constants(),
    )


def rotate_in_place(qkv: Tensor, num_heads: int, cos: Tensor, sin: Tensor, halves: bool) -> None:
    """Turn queries and keys of a contiguous (B, N, 3 C)."""
    batch, tokens, width = qkv.shape
    half, num_rows = width // (6 * num_heads), batch * tokens
    plan = _plan(width // 3, half, halves, qkv.dtype, _FORWARD_LOOPS)
    launch(
        _rotate_kernel,
        2 * plan['COLUMN_TILES'] * cdiv(num_rows, plan['ROWS'] * _FORWARD_LOOPS),
        plan,
        (qkv, cos, sin),
        (num_rows, cos.numel() // half),
    )


def join_rotated(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, halves: bool, with_sum: bool
) -> tuple[Tensor, Tensor | None]:
    """Three tensors of (B, H, N, d) as one of (B N, 3 H d), two of them turned back."""
    batch, heads, tokens, head_dim = q.shape
    channels, num_rows = heads * head_dim, batch * tokens
    joined = q.new_empty(num_rows, 3 * channels)
    q, k, v = in_one_layout(q, k, v)
    plan = _plan(channels, head_dim // 2, halves, q.dtype, _BACKWARD_LOOPS, WITH_SUM=with_sum)
    programs = cdiv(num_rows, plan['ROWS'] * _BACKWARD_LOOPS)
    partial = q.new_empty(programs if with_sum else 0, 3 * channels, dtype=torch.float32)
    launch(
        _join_rotated_kernel,
        programs * plan['COLUMN_TILES'] * 3,
        plan,
        (q, k, v, cos, sin, joined, partial),
        (num_rows, 2 * cos.numel() // head_dim, tokens, *q.stride()[:3]),
    )
    return joined, sum_rows(partial) if with_sum else None
