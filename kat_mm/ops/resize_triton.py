"""Triton kernels of bilinear resizing, and where its positions are.

An output position o lies at the fraction ``numerator(o) / divisor`` of the input, both integers, so
that neither a weight nor the first position of a sum is ever rounded. The gradient is a gather:
an input position i is part of those o with ``|numerator(o) - i * divisor| < divisor``, neighbours
without a gap.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.dtypes import compute_dtype
from .common.launch import Plan, cache_plan, launch
from .common.tiles import cdiv
from .resize_eager import empty_maps, memory_format

_SIZES = ['height_in', 'width_in', 'height_out', 'width_out']
_TILE_BYTES = 4096
_ROW_BYTES = 512
# Sums over more positions than these take one direction after the other.
_MAX_TAPS = 100


@triton.jit
def locate(o, size_in, size_out, ALIGN: tl.constexpr):
    """Numerator and divisor of the output position ``o``, inside of the input."""
    if ALIGN:
        divisor = tl.maximum(size_out - 1, 1)
        numerator = o * (size_in - 1)
    else:
        divisor = 2 * size_out
        numerator = tl.maximum(o * (2 * size_in) + size_in - size_out, 0)
    return tl.minimum(numerator, (size_in - 1) * divisor), divisor


@triton.jit
def neighbours(o, size_in, size_out, ALIGN: tl.constexpr, DTYPE: tl.constexpr):
    """The two input positions beside ``o``, and the weight of the second."""
    numerator, divisor = locate(o, size_in, size_out, ALIGN)
    first = numerator // divisor
    weight = (numerator - first * divisor).to(DTYPE) / divisor.to(DTYPE)
    return first, tl.minimum(first + 1, size_in - 1), weight


@triton.jit
def first_output(i, size_in, size_out, taps, ALIGN: tl.constexpr):
    """The first of ``taps`` output positions among which are all that ``i`` is part of."""
    if ALIGN:
        divisor = tl.maximum(size_in - 1, 1)
        first = (i - 1) * (size_out - 1) + divisor * (size_out + 1)
    else:
        divisor = 2 * size_in
        first = (2 * i - 1) * size_out - size_in + divisor * (size_out + 1)
    # Divided when positive: integers are rounded towards zero.
    first = first // divisor - size_out
    return tl.minimum(tl.maximum(first, 0), size_out - taps)


@triton.jit
def _tile_of_program(channels, width, pixels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Image, channels, rows, columns and mask of a tile of (pixels, channels)."""
    blocks = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    c = (program % blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    program = program // blocks
    tiles = tl.cdiv(pixels, PIXELS)
    p = (program % tiles) * PIXELS + tl.arange(0, PIXELS)[:, None]
    image = (program // tiles).to(tl.int64)
    mask = (c < channels) & (p < pixels)
    p = tl.minimum(p, pixels - 1)  # positions of no pixel overflow otherwise
    return image, c, p // width, p % width, mask


@triton.jit(do_not_specialize=_SIZES)
def _resize_kernel(
    x_ptr,
    y_ptr,
    height_in,
    width_in,
    height_out,
    width_out,
    channels,
    x_image,
    x_channel,
    x_row,
    x_column,
    y_image,
    y_channel,
    y_row,
    y_column,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """y[o] = sum_i hat(o, i) x[i], of the four positions i beside o = (row, column)."""
    image, c, row, column, mask = _tile_of_program(
        channels, width_out, height_out * width_out, PIXELS, CHANNELS
    )
    top, bottom, down = neighbours(row, height_in, height_out, ALIGN, DTYPE)
    left, right, across = neighbours(column, width_in, width_out, ALIGN, DTYPE)
    x_ptrs = x_ptr + image * x_image + c.to(tl.int64) * x_channel
    top, bottom, left, right = top * x_row, bottom * x_row, left * x_column, right * x_column
    a = tl.load(x_ptrs + (top + left), mask=mask).to(DTYPE)
    b = tl.load(x_ptrs + (top + right), mask=mask).to(DTYPE)
    upper = (1 - across) * a + across * b
    a = tl.load(x_ptrs + (bottom + left), mask=mask).to(DTYPE)
    b = tl.load(x_ptrs + (bottom + right), mask=mask).to(DTYPE)
    y = (1 - down) * upper + down * ((1 - across) * a + across * b)
    y_ptrs = y_ptr + image * y_image + c.to(tl.int64) * y_channel
    tl.store(y_ptrs + (row * y_row + column * y_column), y, mask=mask)


@triton.jit
def hat(o, i, size_in, size_out, ALIGN: tl.constexpr, DTYPE: tl.constexpr):
    """Weight of the input position ``i`` in the output position ``o``."""
    numerator, divisor = locate(o, size_in, size_out, ALIGN)
    distance = tl.abs(numerator - i * divisor)
    return tl.maximum(divisor - distance, 0).to(DTYPE) / divisor.to(DTYPE)


@triton.jit(do_not_specialize=[*_SIZES, 'taps_y'])
def _resize_backward_kernel(
    grad_ptr,
    grad_x_ptr,
    height_in,
    width_in,
    height_out,
    width_out,
    channels,
    taps_y,
    grad_image,
    grad_channel,
    grad_row,
    grad_column,
    x_image,
    x_channel,
    x_row,
    x_column,
    TAPS_X: tl.constexpr,
    UNROLL: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """grad_x[i] = sum_o hat(o, i) grad[o], over the taps of i = (row, column)."""
    image, c, row, column, mask = _tile_of_program(
        channels, width_in, height_in * width_in, PIXELS, CHANNELS
    )
    top = first_output(row, height_in, height_out, taps_y, ALIGN)
    left = first_output(column, width_in, width_out, TAPS_X, ALIGN)
    grad_ptrs = grad_ptr + image * grad_image + c.to(tl.int64) * grad_channel
    sums = tl.zeros(mask.shape, DTYPE)
    for y in range(taps_y):
        weight = hat(top + y, row, height_in, height_out, ALIGN, DTYPE)
        offset = (top + y) * grad_row
        for x in tl.range(TAPS_X, loop_unroll_factor=UNROLL):
            grad = tl.load(grad_ptrs + (offset + (left + x) * grad_column), mask=mask)
            weight_x = hat(left + x, column, width_in, width_out, ALIGN, DTYPE)
            sums += grad.to(DTYPE) * (weight * weight_x)
    x_ptrs = grad_x_ptr + image * x_image + c.to(tl.int64) * x_channel
    tl.store(x_ptrs + (row * x_row + column * x_column), sums, mask=mask)


def taps(size_in: int, size_out: int, align_corners: bool) -> int:
    """Most output positions that an input position is part of, in a row without a gap."""
    if not align_corners:
        return min(size_out, cdiv(2 * size_out, size_in))
    if size_in == 1:
        return size_out
    return min(size_out, max(1, cdiv(2 * (size_out - 1), size_in - 1)))


@cache_plan
def _plan(
    channels: int,
    pixels: int,
    align_corners: bool,
    channels_last: bool,
    dtypes: tuple[torch.dtype, torch.dtype],
    **others: int,
) -> Plan:
    """``dtypes`` of the tensor that is read and of that which is written."""
    tile = _TILE_BYTES // max(dtype.itemsize for dtype in dtypes)
    row, others_in_row = (channels, pixels) if channels_last else (pixels, channels)
    row = min(triton.next_power_of_2(row), _ROW_BYTES // dtypes[0].itemsize)
    column = min(triton.next_power_of_2(others_in_row), tile // row)
    return Plan(
        compute_dtype(*dtypes),
        ALIGN=align_corners,
        PIXELS=column if channels_last else row,
        CHANNELS=row if channels_last else column,
        num_warps=4,
        **others,
    )


def _programs(shape: torch.Size, plan: Plan) -> int:
    batch, channels, height, width = shape
    tiles = cdiv(height * width, plan['PIXELS'])
    return batch * tiles * cdiv(channels, plan['CHANNELS'])


def _is_channels_last(x: Tensor) -> bool:
    return memory_format(x) is torch.channels_last


def forward(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """See ``resize``."""
    y = empty_maps(x, size)
    if y.numel() == 0:
        return y
    dtypes = x.dtype, y.dtype
    plan = _plan(y.shape[1], size[0] * size[1], align_corners, _is_channels_last(x), dtypes)
    launch(
        _resize_kernel,
        _programs(y.shape, plan),
        plan,
        (x, y),
        (*x.shape[2:], *size, x.shape[1], *x.stride(), *y.stride()),
    )
    return y


def backward(grad: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Gradient of maps of ``size``; see ``resize``."""
    height, width = grad.shape[2:]
    taps_y, taps_x = (
        taps(*sides, align_corners) for sides in zip(size, (height, width), strict=True)
    )
    if taps_y * taps_x <= _MAX_TAPS or size[0] == height or size[1] == width:
        return _gather(grad, empty_maps(grad, size), align_corners)
    columns = empty_maps(grad, (height, size[1]), compute_dtype(grad.dtype))
    return _gather(_gather(grad, columns, align_corners), empty_maps(grad, size), align_corners)


def _gather(grad: Tensor, grad_x: Tensor, align_corners: bool) -> Tensor:
    if grad_x.numel() == 0:
        return grad_x
    height, width = grad_x.shape[2:]
    taps_x = taps(width, grad.shape[3], align_corners)
    channels_last = _is_channels_last(grad)
    plan = _plan(
        grad.shape[1],
        height * width,
        align_corners,
        channels_last,
        (grad.dtype, grad_x.dtype),
        TAPS_X=taps_x,
        UNROLL=min(taps_x, 4 if channels_last else 2),
    )
    launch(
        _resize_backward_kernel,
        _programs(grad_x.shape, plan),
        plan,
        (grad, grad_x),
        (
            height,
            width,
            *grad.shape[2:],
            grad.shape[1],
            taps(height, grad.shape[2], align_corners),
            *grad.stride(),
            *grad_x.stride(),
        ),
    )
    return grad_x
