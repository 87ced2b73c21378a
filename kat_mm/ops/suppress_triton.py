"""Triton kernels of non-maximum suppression, for many sets of boxes at once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.tiles import NUM_WARPS, cdiv

_ROWS = 64
_BITS = 32
# Beyond that a row of bits does not fit into registers.
_MOST_BOXES = 16384


@triton.jit
def _overlap_kernel(
    boxes_ptr,
    overlap_ptr,
    n,
    threshold,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    BITS: tl.constexpr,
):
    """Bit j of word w of row i: whether box i suppresses the box 32 w + j behind it."""
    row_blocks, num_words = tl.cdiv(n, ROWS), tl.cdiv(n, BITS)
    word = tl.program_id(0) % num_words
    first_row = (tl.program_id(0) // num_words) % row_blocks * ROWS
    problem = (tl.program_id(0) // num_words // row_blocks).to(tl.int64)
    if word * BITS + BITS - 1 <= first_row:  # boxes before these rows alone, which nothing reads
        return
    row = first_row + tl.arange(0, ROWS)[:, None]
    bit = tl.arange(0, BITS)[None, :]
    column = word * BITS + bit
    boxes_ptr += problem * n * 4
    x1 = tl.load(boxes_ptr + row * 4, mask=row < n, other=0.0)
    y1 = tl.load(boxes_ptr + row * 4 + 1, mask=row < n, other=0.0)
    x2 = tl.load(boxes_ptr + row * 4 + 2, mask=row < n, other=0.0)
    y2 = tl.load(boxes_ptr + row * 4 + 3, mask=row < n, other=0.0)
    u1 = tl.load(boxes_ptr + column * 4, mask=column < n, other=0.0)
    v1 = tl.load(boxes_ptr + column * 4 + 1, mask=column < n, other=0.0)
    u2 = tl.load(boxes_ptr + column * 4 + 2, mask=column < n, other=0.0)
    v2 = tl.load(boxes_ptr + column * 4 + 3, mask=column < n, other=0.0)
    width = tl.maximum(tl.minimum(x2, u2) - tl.maximum(x1, u1), 0.0)
    height = tl.maximum(tl.minimum(y2, v2) - tl.maximum(y1, v1), 0.0)
    common = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
    suppressed = (common > threshold * union) & (column > row)
    bits = tl.sum(suppressed.to(tl.int32) << bit, axis=1)[:, None]
    place = (problem * n + row) * WORDS + word
    tl.store(overlap_ptr + place, bits, mask=row < n)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _scan_kernel(
    overlap_ptr, valid_ptr, keep_ptr, n, WORDS: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr
):
    """One set of boxes, 32 of them at a time: these among each other, then all behind them."""
    problem = tl.program_id(0).to(tl.int64)
    overlap_ptr += problem * n * WORDS
    valid_ptr += problem * n
    keep_ptr += problem * n
    word = tl.arange(0, WORDS)
    bit = tl.arange(0, BITS)
    removed = tl.zeros([WORDS], tl.int32)
    for block in range(tl.cdiv(n, BITS)):
        row = block * BITS + bit
        valid = tl.load(valid_ptr + row, mask=row < n, other=0).to(tl.int32)
        gone = tl.sum(tl.where(word == block, removed, 0), axis=0)
        gone = gone | ~tl.sum(valid << bit, axis=0)
        for k in tl.static_range(BITS):
            own = tl.load(
                overlap_ptr + (block * BITS + k) * WORDS + block, mask=block * BITS + k < n, other=0
            )
            gone = tl.where(((gone >> k) & 1) == 0, gone | own, gone)
        kept = ((gone >> bit) & 1) == 0
        tl.store(keep_ptr + row, kept.to(tl.int8), mask=row < n)
        rest = tl.load(
            overlap_ptr + row[:, None] * WORDS + word[None, :],
            mask=(kept & (row < n))[:, None] & (word > block)[None, :] & (word < tl.cdiv(n, BITS)),
            other=0,
        )
        removed = removed | tl.reduce(rest, 0, _either)


def supports(boxes: Tensor) -> bool:
    """Whether the kernels take these boxes; the plain path takes all."""
    return boxes.dtype == torch.float32 and boxes.shape[1] <= _MOST_BOXES and boxes.numel() > 0


@cache_plan
def _plan(num_words: int) -> Plan:
    return Plan(
        WORDS=triton.next_power_of_2(num_words), ROWS=_ROWS, BITS=_BITS, num_warps=NUM_WARPS
    )


def forward(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """See ``suppress``."""
    boxes, valid = boxes.contiguous(), valid.contiguous()
    problems, n = boxes.shape[:2]
    plan = _plan(cdiv(n, _BITS))
    overlap = boxes.new_empty(problems, n, plan['WORDS'], dtype=torch.int32)
    keep = torch.empty_like(valid, dtype=torch.int8)
    programs = problems * cdiv(n, _ROWS) * cdiv(n, _BITS)
    launch(_overlap_kernel, programs, plan, (boxes, overlap), (n, threshold))
    launch(_scan_kernel, problems, plan, (overlap, valid.view(torch.int8), keep), (n,))
    return keep.view(torch.bool)
