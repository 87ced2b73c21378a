"""Triton kernels of the cross-entropy of resized logits.

Forward, a program takes some pixels of the labels and walks through the classes, with a running
maximum. Backward, it takes some columns of the logits and some classes and walks down the rows; for
each row of labels on the way it adds up the pixels that a column is part of, which lie between its
own logits and those of the columns beside it. No sum is shared between programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.dtypes import compute_dtype
from .common.launch import Plan, cache_plan, launch
from .common.tiles import cdiv
from .resize_triton import first_output, locate, neighbours, taps
from .resized_cross_entropy_eager import empty_gradient, empty_outputs

_SIZES = ['height', 'width', 'height_out', 'width_out', 'ignore_index']
_PIXELS = 128
# Classes that a thread holds, forward and backward: more do not fit into registers.
_CLASSES = (8, 4)


@triton.jit
def _between(a, b, weight):
    return (1 - weight) * a + weight * b


@triton.jit
def _interpolate(pointers, top, bottom, left, right, down, across, mask, DTYPE: tl.constexpr):
    """Logits between four neighbours, whose rows and columns are offsets."""
    a = tl.load(pointers + (top + left), mask=mask, other=0.0).to(DTYPE)
    b = tl.load(pointers + (top + right), mask=mask, other=0.0).to(DTYPE)
    c = tl.load(pointers + (bottom + left), mask=mask, other=0.0).to(DTYPE)
    d = tl.load(pointers + (bottom + right), mask=mask, other=0.0).to(DTYPE)
    return _between(_between(a, b, across), _between(c, d, across), down)


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    logits_ptr,
    labels_ptr,
    weight_ptr,
    partial_ptr,
    lse_ptr,
    targets_ptr,
    height,
    width,
    height_out,
    width_out,
    ignore_index,
    CLASSES: tl.constexpr,
    ALIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Of a tile of pixels, with z = resize(logits) and t the label: lse = log sum_k exp(z_k), and
    the sums of w_t (lse - z_t), of w_t, of [z_t is the largest] and of 1."""
    pixels = height_out * width_out
    plane = height * width
    tiles = tl.cdiv(pixels, PIXELS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    p = (tl.program_id(0) % tiles) * PIXELS + tl.arange(0, PIXELS)
    inside = p < pixels
    p = tl.minimum(p, pixels - 1)
    top, bottom, down = neighbours(p // width_out, height, height_out, ALIGN, DTYPE)
    left, right, across = neighbours(p % width_out, width, width_out, ALIGN, DTYPE)
    top, bottom = top * width, bottom * width
    logits_ptr += image * CLASSES * plane

    label = tl.load(labels_ptr + image * pixels + p)
    valid = inside & (label != ignore_index)
    known = (label >= 0) & (label < CLASSES)
    label = tl.where(valid & known, label, 0).to(tl.int32)
    own = _interpolate(
        logits_ptr + label * plane, top, bottom, left, right, down, across, inside, DTYPE
    )

    most = tl.full([PIXELS], float('-inf'), DTYPE)
    total = tl.zeros([PIXELS], DTYPE)
    better = tl.zeros([PIXELS], tl.int32)  # classes before the label's in the order of logits
    # Neighbouring threads take neighbouring pixels, and a thread all classes of a block.
    top, bottom, left, right = top[:, None], bottom[:, None], left[:, None], right[:, None]
    down, across = down[:, None], across[:, None]
    for first in range(0, CLASSES, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)[None, :]
        z = _interpolate(
            logits_ptr + k * plane, top, bottom, left, right, down, across, k < CLASSES, DTYPE
        )
        z = tl.where(k < CLASSES, z, float('-inf'))
        new_most = tl.maximum(most, tl.max(z, axis=1))
        total = total * tl.exp(most - new_most) + tl.sum(tl.exp(z - new_most[:, None]), axis=1)
        most = new_most
        # The label's own logit may have been rounded otherwise above.
        before = (z > own[:, None]) & (k > label[:, None])
        before = before | ((z >= own[:, None]) & (k < label[:, None]))
        better += tl.sum(before.to(tl.int32), axis=1)
    lse = most + tl.log(total)

    weight = valid.to(DTYPE)
    if weight_ptr is not None:
        weight *= tl.load(weight_ptr + label).to(DTYPE)
    loss = tl.where(known, weight * (lse - own), float('nan'))
    partial_ptr += tl.program_id(0).to(tl.int64) * 4
    tl.store(partial_ptr, tl.sum(tl.where(valid, loss, 0.0), axis=0))
    tl.store(partial_ptr + 1, tl.sum(weight, axis=0))
    tl.store(partial_ptr + 2, tl.sum((valid & (better == 0)).to(DTYPE), axis=0))
    tl.store(partial_ptr + 3, tl.sum(valid.to(DTYPE), axis=0))
    tl.store(lse_ptr + image * pixels + p, lse, mask=inside)
    targets = tl.where(valid, label, -1).to(tl.int16)
    tl.store(targets_ptr + image * pixels + p, targets, mask=inside)


@triton.jit
def _first_between(row, size_in, size_out, ALIGN: tl.constexpr):
    """The first output position between the input positions ``row`` and ``row + 1``."""
    if ALIGN:
        divisor = tl.maximum(size_in - 1, 1)
        first = row * (size_out - 1)
    else:
        divisor = 2 * size_in
        first = 2 * row * size_out + size_out - size_in
    first = (tl.maximum(first, 0) + divisor - 1) // divisor
    first = tl.where(row == 0, 0, first)  # and all that lie before it
    return tl.where(row >= size_in, size_out, first)


@triton.jit
def _three_columns(pointer, row, column, width, mask, DTYPE: tl.constexpr):
    """Logits of a row: of the columns before, of the columns themselves, and of those behind."""
    before = tl.maximum(column - 1, 0)
    behind = tl.minimum(column + 1, width - 1)
    a = tl.load(pointer + (row + before), mask=mask, other=0.0).to(DTYPE)
    b = tl.load(pointer + (row + column), mask=mask, other=0.0).to(DTYPE)
    c = tl.load(pointer + (row + behind), mask=mask, other=0.0).to(DTYPE)
    return a, b, c


@triton.jit(do_not_specialize=_SIZES[:-1])
def _backward_kernel(
    grad_ptr,
    logits_ptr,
    lse_ptr,
    targets_ptr,
    weight_ptr,
    grad_logits_ptr,
    height,
    width,
    height_out,
    width_out,
    CLASSES: tl.constexpr,
    TAPS: tl.constexpr,
    UNROLL: tl.constexpr,
    ALIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """grad_logits_ik = grad sum_o hat(o, i) w_t (exp(z_ok - lse_o) - [k = t_o]); hat of resize."""
    program = tl.program_id(0)
    blocks = tl.cdiv(CLASSES, BLOCK_K)
    k = (program % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    program = program // blocks
    tiles = tl.cdiv(width, COLUMNS)
    column = (program % tiles) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    program = program // tiles
    chunks = tl.cdiv(height, ROWS)
    first_row = (program % chunks) * ROWS
    image = (program // chunks).to(tl.int64)
    mask = (k < CLASSES) & (column < width)
    column = tl.minimum(column, width - 1)

    first = first_output(column, width, width_out, TAPS, ALIGN)
    logits_ptr += image * CLASSES * height * width
    grad_logits_ptr += image * CLASSES * height * width
    planes = k * (height * width)
    lse_ptr += image * height_out * width_out
    targets_ptr += image * height_out * width_out
    grad = tl.load(grad_ptr).to(DTYPE)

    sums = tl.zeros([COLUMNS, BLOCK_K], DTYPE)
    start = tl.maximum(first_row - 1, 0)
    end = tl.minimum(first_row + ROWS, height)
    a, b, c = _three_columns(logits_ptr, planes + start * width, column, width, mask, DTYPE)
    for row in range(start, end):
        below = tl.minimum(row + 1, height - 1)
        d, e, f = _three_columns(logits_ptr, planes + below * width, column, width, mask, DTYPE)
        sums_below = tl.zeros([COLUMNS, BLOCK_K], DTYPE)
        y_end = _first_between(row + 1, height, height_out, ALIGN)
        for y in range(_first_between(row, height, height_out, ALIGN), y_end):
            numerator_y, divisor_y = locate(y, height, height_out, ALIGN)
            down = (numerator_y - row * divisor_y).to(DTYPE) / divisor_y.to(DTYPE)
            before, own, behind = _between(a, d, down), _between(b, e, down), _between(c, f, down)
            slopes = tl.zeros([COLUMNS, BLOCK_K], DTYPE)
            for tap in tl.range(TAPS, loop_unroll_factor=UNROLL):
                x = first + tap
                numerator, divisor = locate(x, width, width_out, ALIGN)
                distance = numerator - column * divisor
                reach = tl.maximum(divisor - tl.abs(distance), 0)
                weight = reach.to(DTYPE) / divisor.to(DTYPE)
                # Beyond the reach is nothing; what is computed there must not be infinite.
                lse = tl.load(lse_ptr + y * width_out + x)
                lse = tl.where(reach > 0, lse, float('inf'))
                target = tl.load(targets_ptr + y * width_out + x)
                valid = target >= 0
                z = _between(tl.where(distance < 0, before, behind), own, weight)
                slope = tl.exp(z - lse) - (k == target).to(DTYPE)
                factor = tl.where(valid, weight, 0.0)
                if weight_ptr is not None:
                    index = tl.maximum(target, 0).to(tl.int32)
                    factor *= tl.load(weight_ptr + index).to(DTYPE)
                slopes += factor * slope
            sums += (1 - down) * slopes
            sums_below += down * slopes
        if row >= first_row:
            tl.store(grad_logits_ptr + (planes + row * width + column), grad * sums, mask=mask)
        sums = sums_below
        a, b, c = d, e, f


def supports(logits: Tensor) -> bool:
    """Whether the kernels take these logits: within an image they count in 32 bits."""
    return logits.shape[1:].numel() < 2**31


@cache_plan
def _plan(
    classes: int, block: int, align_corners: bool, dtypes: tuple, warps: int = 4, **others: int
) -> Plan:
    """``dtypes`` of logits, of labels or gradient, of weights; the others follow from them."""
    return Plan(
        torch.float64 if torch.float64 in dtypes else torch.float32,
        CLASSES=classes,
        ALIGN=align_corners,
        BLOCK_K=min(block, triton.next_power_of_2(classes)),
        num_warps=warps,
        **others,
    )


def _dtype(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype


def _wide_weight(logits: Tensor, class_weight: Tensor | None) -> Tensor | None:
    """In the dtype of the arithmetic: of float64 the kernels know by the logits."""
    if class_weight is None:
        return None
    return class_weight.to(compute_dtype(logits.dtype)).contiguous()


def forward(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``resized_cross_entropy_eager``."""
    logits, labels = logits.contiguous(), labels.contiguous()
    class_weight = _wide_weight(logits, class_weight)
    sums, lse, targets = empty_outputs(logits, labels)
    batch, classes, *size = logits.shape
    programs = batch * cdiv(labels.shape[1] * labels.shape[2], _PIXELS)
    if programs == 0:
        return sums.zero_(), lse, targets
    partial = sums.new_empty(programs, 4)
    plan = _plan(
        classes,
        _CLASSES[0],
        align_corners,
        (logits.dtype, labels.dtype, _dtype(class_weight)),
        PIXELS=_PIXELS,
    )
    launch(
        _forward_kernel,
        programs,
        plan,
        (logits, labels, class_weight, partial, lse, targets),
        (*size, *labels.shape[1:], ignore_index),
    )
    # Counts above 2^24 have no float32.
    return partial.sum(dim=0, dtype=torch.float64).to(sums.dtype), lse, targets


def backward(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
) -> Tensor:
    """See ``resized_cross_entropy_eager``."""
    logits = logits.contiguous()
    class_weight = _wide_weight(logits, class_weight)
    grad_logits = empty_gradient(logits)
    if grad_logits.numel() == 0:
        return grad_logits
    batch, classes, height, width = logits.shape
    taps_x = taps(width, targets.shape[2], align_corners)
    columns = min(128, max(32, triton.next_power_of_2(width)))
    rows = 8 if height >= 64 else 4
    plan = _plan(
        classes,
        _CLASSES[1],
        align_corners,
        (logits.dtype, grad.dtype, _dtype(class_weight)),
        warps=columns // 32,
        TAPS=taps_x,
        UNROLL=min(taps_x, 4),
        COLUMNS=columns,
        ROWS=rows,
    )
    launch(
        _backward_kernel,
        batch * cdiv(height, rows) * cdiv(width, columns) * cdiv(classes, plan['BLOCK_K']),
        plan,
        (grad, logits, lse, targets, class_weight, grad_logits),
        (height, width, *targets.shape[1:]),
    )
    return grad_logits
