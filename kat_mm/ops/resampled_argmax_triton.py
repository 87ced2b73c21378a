"""Triton kernel of the largest resampled logit."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.dtypes import compute_dtype
from .common.launch import Plan, cache_plan, launch
from .common.tiles import cdiv
from .resampled_argmax_eager import empty_labels

_PIXELS = 128
_CLASSES = 8


@triton.jit(do_not_specialize=['height', 'width', 'rows', 'columns', 'taps_y', 'taps_x'])
def _argmax_kernel(
    logits_ptr,
    row_ptr,
    row_weight_ptr,
    row_count_ptr,
    column_ptr,
    column_weight_ptr,
    column_count_ptr,
    labels_ptr,
    height,
    width,
    rows,
    columns,
    taps_y,
    taps_x,
    CLASSES: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """labels = argmax_k of sum_yx weight_y weight_x logits[k, y, x], for a tile of pixels."""
    pixels = rows * columns
    tiles = tl.cdiv(pixels, PIXELS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    p = (tl.program_id(0) % tiles) * PIXELS + tl.arange(0, PIXELS)
    inside = p < pixels
    p = tl.minimum(p, pixels - 1)
    row, column = p // columns, p % columns
    used_y = tl.max(tl.load(row_count_ptr + row), axis=0)
    used_x = tl.max(tl.load(column_count_ptr + column), axis=0)
    logits_ptr += image * CLASSES * height * width

    best = tl.full([PIXELS], float('-inf'), DTYPE)
    label = tl.zeros([PIXELS], tl.int32)
    for first in range(0, CLASSES, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)[None, :]
        z = tl.zeros([PIXELS, BLOCK_K], DTYPE)
        for y in range(used_y):
            offset = tl.load(row_ptr + row * taps_y + y) * width
            down = tl.load(row_weight_ptr + row * taps_y + y).to(DTYPE)
            for x in range(used_x):
                index = offset + tl.load(column_ptr + column * taps_x + x)
                weight = down * tl.load(column_weight_ptr + column * taps_x + x).to(DTYPE)
                pointers = logits_ptr + (k * (height * width) + index[:, None])
                z += weight[:, None] * tl.load(pointers, mask=k < CLASSES, other=0.0).to(DTYPE)
        z = tl.where(k < CLASSES, z, float('-inf'))
        most = tl.max(z, axis=1)
        which = tl.min(tl.where(z == most[:, None], k, CLASSES), axis=1)
        label = tl.where(most > best, which, label)
        best = tl.maximum(most, best)
    tl.store(labels_ptr + image * pixels + p, label.to(tl.int64), mask=inside)


@cache_plan
def _plan(classes: int, dtypes: tuple[torch.dtype, torch.dtype]) -> Plan:
    """``dtypes`` of logits and weights."""
    return Plan(
        compute_dtype(dtypes[0]),
        CLASSES=classes,
        BLOCK_K=min(_CLASSES, triton.next_power_of_2(classes)),
        PIXELS=_PIXELS,
        num_warps=4,
    )


def forward(logits: Tensor, rows, columns) -> Tensor:
    """See ``resampled_argmax``."""
    logits = logits.contiguous()
    batch, classes, *size = logits.shape
    labels = empty_labels(logits, rows, columns)
    if labels.numel() == 0:
        return labels
    launch(
        _argmax_kernel,
        batch * cdiv(labels.shape[1] * labels.shape[2], _PIXELS),
        _plan(classes, (logits.dtype, rows.weight.dtype)),
        (logits, *rows, *columns, labels),
        (*size, *labels.shape[1:], rows.index.shape[1], columns.index.shape[1]),
    )
    return labels
