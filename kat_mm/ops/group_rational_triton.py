"""Triton kernels of the group-rational function, and their launch.

The kernels are bound by memory: they read x (and the gradient) once and write once. Tiles, slots
and the reduction of the coefficient gradients are described in ``common/``. One pair of
kernels serves channels that lie next to each other in memory, (rows, C), and one serves channels
that lie apart, as in contiguous (B, C, H, W): both read and write the tensor as it lies.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.dtypes import rational_dtype
from .common.launch import Plan, cache_plan, launch
from .common.rational import (
    approximates_division,
    differentiate,
    evaluate,
    load_coefficients,
    load_magnitudes,
)
from .common.reduction import finish, store_sums, zero_sums
from .common.tiles import Tile, cdiv, contiguous, slot_width
from .group_rational_eager import empty_output, lies_in_planes

# Tiles that one program of a backward kernel walks through.
_LOOPS = 16


@triton.jit
def _rational_forward_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    bias_ptr,
    num_rows,
    x_stride,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
):
    """y = F(x + bias) of rows (..., C), by tiles of rows and slots."""
    NUM_SLOTS: tl.constexpr = CHANNELS // VECTOR
    slot = (tl.program_id(0) % COLUMN_TILES) * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot < NUM_SLOTS
    slot = tl.where(slot_mask, slot, 0)
    a = load_coefficients(a_ptr, slot // (NUM_SLOTS // A_GROUPS), M + 1, DTYPE)
    b = load_magnitudes(b_ptr, slot // (NUM_SLOTS // B_GROUPS), N, DTYPE)
    row = (tl.program_id(0) // COLUMN_TILES).to(tl.int64) * ROWS
    row += tl.arange(0, ROWS)[:, None, None]
    mask = slot_mask & (row < num_rows)
    x = tl.load(x_ptr + row * x_stride + channel, mask=mask, other=0.0).to(DTYPE)
    if HAS_BIAS:
        x += tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(DTYPE)
    tl.store(y_ptr + row * CHANNELS + channel, evaluate(x, a, b, M, N, APPROXIMATE), mask=mask)


@triton.jit
def _rational_backward_kernel(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    y_ptr,
    partial_ptr,
    a_ptr,
    b_ptr,
    bias_ptr,
    num_rows,
    grad_stride,
    x_stride,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
    WITH_OUTPUT: tl.constexpr,
):
    """With z = x + bias: grad_x = grad F'(z), and y = F(z) once more if wanted; for the reduction
    the sums over this program's rows of grad_x and of grad dF/da_i, grad dF/d|b_j|."""
    NUM_SLOTS: tl.constexpr = CHANNELS // VECTOR
    first_slot = (tl.program_id(0) % COLUMN_TILES) * SLOTS
    slot = first_slot + tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot < NUM_SLOTS
    slot = tl.where(slot_mask, slot, 0)
    a = load_coefficients(a_ptr, slot // (NUM_SLOTS // A_GROUPS), M + 1, DTYPE)
    b = load_magnitudes(b_ptr, slot // (NUM_SLOTS // B_GROUPS), N, DTYPE)
    sums = zero_sums(M + 1 + N, ROWS, SLOTS, DTYPE)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(DTYPE)
        bias_sum = tl.zeros([ROWS, SLOTS, VECTOR], DTYPE)

    program_row = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    end = tl.minimum((program_row + 1) * (ROWS * LOOPS), num_rows)
    mask = slot_mask & (row < end)
    x_next = tl.load(x_ptr + row * x_stride + channel, mask=mask, other=0.0)
    grad_next = tl.load(grad_ptr + row * grad_stride + channel, mask=mask, other=0.0)
    for _ in range(LOOPS):
        # The next tile is on its way while this one is worked on.
        x, grad = x_next.to(DTYPE), grad_next.to(DTYPE)
        output, output_mask = row * CHANNELS + channel, mask
        row += ROWS
        mask = slot_mask & (row < end)
        x_next = tl.load(x_ptr + row * x_stride + channel, mask=mask, other=0.0)
        grad_next = tl.load(grad_ptr + row * grad_stride + channel, mask=mask, other=0.0)
        if HAS_BIAS:
            x += bias
        grad_x, sums, y = differentiate(x, grad, a, b, sums, M, N, DTYPE, APPROXIMATE)
        tl.store(grad_x_ptr + output, grad_x, mask=output_mask)
        if WITH_OUTPUT:
            tl.store(y_ptr + output, y, mask=output_mask)
        if HAS_BIAS:
            bias_sum += grad_x

    # Sums for the bias, then those for the coefficients.
    partial_ptr += program_row * (CHANNELS * HAS_BIAS + (M + 1 + N) * NUM_SLOTS)
    if HAS_BIAS:
        tl.store(partial_ptr + channel, tl.sum(bias_sum, axis=0)[None, :, :], mask=slot_mask)
        partial_ptr += CHANNELS
    slot = first_slot + tl.arange(0, SLOTS)
    store_sums(partial_ptr, sums, slot, slot < NUM_SLOTS, M + 1 + N, NUM_SLOTS, 0)


@triton.jit
def _rational_planes_forward_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    bias_ptr,
    num_planes,
    size,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """As of rows, for x that lies as (B, C, plane): a tile is planes by positions."""
    pieces = tl.cdiv(size, SLOTS * VECTOR * LOOPS)
    plane = (tl.program_id(0) // pieces).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    plane_mask = plane < num_planes
    channel = (plane % CHANNELS).to(tl.int32)
    a = load_coefficients(a_ptr, channel // (CHANNELS // A_GROUPS), M + 1, DTYPE)
    b = load_magnitudes(b_ptr, channel // (CHANNELS // B_GROUPS), N, DTYPE)
    start = (tl.program_id(0) % pieces) * (SLOTS * VECTOR * LOOPS)
    slot = tl.arange(0, SLOTS)[None, :, None] * VECTOR
    lane = tl.arange(0, VECTOR)[None, None, :]
    origin = tl.multiple_of(plane * size, [1, 1, VECTOR])
    for step in range(LOOPS):
        position = start + step * (SLOTS * VECTOR) + slot
        mask = plane_mask & (position < size)
        offset = origin + position + lane
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(DTYPE)
        if HAS_BIAS:
            x += tl.load(bias_ptr + channel).to(DTYPE)
        y = evaluate(x, a, b, M, N, APPROXIMATE)
        tl.store(y_ptr + offset, y, mask=mask)


@triton.jit
def _rational_planes_backward_kernel(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    partial_ptr,
    a_ptr,
    b_ptr,
    bias_ptr,
    num_planes,
    size,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """As of rows, for x that lies as (B, C, plane); the sums are those of single planes."""
    pieces = tl.cdiv(size, SLOTS * VECTOR * LOOPS)
    piece = tl.program_id(0) % pieces
    first_plane = (tl.program_id(0) // pieces).to(tl.int64) * ROWS
    plane = first_plane + tl.arange(0, ROWS)[:, None, None]
    plane_mask = plane < num_planes
    channel = (plane % CHANNELS).to(tl.int32)
    a = load_coefficients(a_ptr, channel // (CHANNELS // A_GROUPS), M + 1, DTYPE)
    b = load_magnitudes(b_ptr, channel // (CHANNELS // B_GROUPS), N, DTYPE)
    sums = zero_sums(M + 1 + N, ROWS, SLOTS, DTYPE)
    bias_sum = tl.zeros([ROWS, SLOTS], DTYPE)
    start = piece * (SLOTS * VECTOR * LOOPS)
    slot = tl.arange(0, SLOTS)[None, :, None] * VECTOR
    lane = tl.arange(0, VECTOR)[None, None, :]
    origin = tl.multiple_of(plane * size, [1, 1, VECTOR])
    for step in range(LOOPS):
        position = start + step * (SLOTS * VECTOR) + slot
        mask = plane_mask & (position < size)
        offset = origin + position + lane
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(DTYPE)
        grad = tl.load(grad_ptr + offset, mask=mask, other=0.0).to(DTYPE)
        if HAS_BIAS:
            x += tl.load(bias_ptr + channel).to(DTYPE)
        grad_x, sums, _ = differentiate(x, grad, a, b, sums, M, N, DTYPE, APPROXIMATE)
        tl.store(grad_x_ptr + offset, grad_x, mask=mask)
        if HAS_BIAS:
            bias_sum += tl.sum(grad_x, axis=2)

    partial_ptr += piece.to(tl.int64) * num_planes * (M + 1 + N + HAS_BIAS)
    plane = first_plane + tl.arange(0, ROWS)
    if HAS_BIAS:
        tl.store(partial_ptr + plane, tl.sum(bias_sum, axis=1), mask=plane < num_planes)
        partial_ptr += num_planes
    store_sums(partial_ptr, sums, plane, plane < num_planes, M + 1 + N, num_planes, 1)


@cache_plan
def _plan(
    channels: int,
    plane: int,
    a_shape: torch.Size,
    b_shape: torch.Size,
    dtypes: tuple[torch.dtype | None, ...],
    is_cuda: bool,
    loops: int | None,
    with_output: bool | None,
) -> Plan:
    """How a tensor is cut: along its channels, or along planes of ``plane`` numbers.

    ``dtypes`` are those of x, numerator, denominator, bias and the gradient. The last two are None
    for a kernel without them.
    """
    others = {'LOOPS': loops, 'WITH_OUTPUT': with_output}
    others = {name: value for name, value in others.items() if value is not None}
    itemsize, dtype = dtypes[0].itemsize, rational_dtype(dtypes[:3], a_shape, b_shape)
    if plane:
        vector = slot_width(plane, 1, most=16 // itemsize)
        tile = Tile.of(plane // vector, vector, itemsize)
    else:
        vector = slot_width(channels, a_shape[0], b_shape[0], most=16 // itemsize)
        tile = Tile.of(channels // vector, vector, itemsize)
        others['COLUMN_TILES'] = cdiv(channels, tile.slots * vector)
    return Plan(
        dtype,
        CHANNELS=channels,
        A_GROUPS=a_shape[0],
        B_GROUPS=b_shape[0],
        M=a_shape[1] - 1,
        N=b_shape[1],
        HAS_BIAS=dtypes[3] is not None,
        APPROXIMATE=approximates_division(is_cuda, dtype),
        **tile.constants(),
        **others,
    )


def _plan_for(
    x: Tensor,
    plane: int,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None,
    grad: Tensor | None = None,
    loops: int | None = None,
    with_output: bool | None = None,
) -> Plan:
    dtypes = (
        x.dtype,
        numerator.dtype,
        denominator.dtype,
        None if bias is None else bias.dtype,
        None if grad is None else grad.dtype,
    )
    shapes = numerator.shape, denominator.shape
    return _plan(x.shape[-1], plane, *shapes, dtypes, x.is_cuda, loops, with_output)


def _planes_programs(count: int, plane: int, plan: Plan) -> tuple[int, int]:
    """Programs that share ``count`` planes, and that share a plane of ``plane`` numbers."""
    pieces = cdiv(plane, plan['SLOTS'] * plan['VECTOR'] * plan['LOOPS'])
    return cdiv(count, plan['ROWS']), pieces


def _plane_size(x: Tensor) -> int:
    return x[0, ..., 0].numel() if lies_in_planes(x) else 0


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """x with unit channel stride and its row stride, without a copy where strides allow it."""
    channels = x.shape[-1]
    if not x.is_contiguous():
        x = x.reshape(-1, channels)
        if x.stride(1) == 1:
            return x, x.stride(0)
        x = x.contiguous()
    return x, channels


def forward(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None = None
) -> Tensor:
    """F(x + bias); see ``group_rational``."""
    y = empty_output(x)
    if not x.numel():
        return y
    plane = _plane_size(x)
    coefficients = numerator.contiguous(), denominator.contiguous(), contiguous(bias)
    if plane:
        plan = _plan_for(x, plane, numerator, denominator, bias, None, _LOOPS)
        count = x.numel() // plane
        groups, pieces = _planes_programs(count, plane, plan)
        tensors = x, y, *coefficients
        launch(_rational_planes_forward_kernel, groups * pieces, plan, tensors, (count, plane))
    else:
        plan = _plan_for(x, 0, numerator, denominator, bias)
        (rows, stride), count = _rows(x), x.numel() // x.shape[-1]
        programs = cdiv(count, plan['ROWS']) * plan['COLUMN_TILES']
        tensors = rows, y, *coefficients
        launch(_rational_forward_kernel, programs, plan, tensors, (count, stride))
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of ``x``, ``numerator``, ``denominator`` and ``bias``; see ``group_rational``."""
    grad_x = empty_output(x)
    if not x.numel():
        grad_bias = None if bias is None else torch.zeros_like(bias)
        return grad_x, torch.zeros_like(numerator), torch.zeros_like(denominator), grad_bias
    plane = _plane_size(x)
    if not plane:
        return _backward_rows(grad, x, numerator, denominator, bias, grad_x)
    plan = _plan_for(x, plane, numerator, denominator, bias, grad, _LOOPS)
    numerator, denominator = numerator.contiguous(), denominator.contiguous()
    if (grad.dtype, grad.stride()) != (x.dtype, x.stride()):
        grad = torch.empty_like(x).copy_(grad)
    count, channels = x.numel() // plane, x.shape[-1]
    sums = numerator.shape[1] + denominator.shape[1] + (bias is not None)
    groups, pieces = _planes_programs(count, plane, plan)
    partial = x.new_empty(pieces, sums, count, dtype=plan.dtype)
    launch(
        _rational_planes_backward_kernel,
        groups * pieces,
        plan,
        (grad, x, grad_x, partial, numerator, denominator, contiguous(bias)),
        (count, plane),
    )
    partial = partial.unflatten(2, (-1, channels)).sum(dim=(0, 2)).flatten()[None]
    return grad_x, *_finish(partial, x, numerator, denominator, bias)


def backward_in_place(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """F(x + bias) again and the gradients, that of x in the memory of ``grad``.

    For (rows, C), contiguous, and ``grad`` of x's dtype.
    """
    y = torch.empty_like(x)
    return y, *_backward_rows(grad, x, numerator, denominator, bias, grad, y)


def _backward_rows(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None,
    grad_x: Tensor,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    plan = _plan_for(x, 0, numerator, denominator, bias, grad, _LOOPS, y is not None)
    numerator, denominator = numerator.contiguous(), denominator.contiguous()
    channels = x.shape[-1]
    num_slots, count = channels // plan['VECTOR'], x.numel() // channels
    sums = (numerator.shape[1] + denominator.shape[1]) * num_slots
    if bias is not None:
        sums += channels
    (x_rows, stride), (grad, grad_stride) = _rows(x), _rows(grad)
    programs = cdiv(count, plan['ROWS'] * _LOOPS)
    partial = x.new_empty(programs, sums, dtype=plan.dtype)
    launch(
        _rational_backward_kernel,
        programs * plan['COLUMN_TILES'],
        plan,
        (grad, x_rows, grad_x, y, partial, numerator, denominator, contiguous(bias)),
        (count, grad_stride, stride),
    )
    return grad_x, *_finish(partial, x, numerator, denominator, bias)


def _finish(
    partial: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of numerator, denominator and bias."""
    shifts = 0 if bias is None else x.shape[-1]
    grad_bias, grad_a, grad_b = finish(partial, shifts, numerator, denominator)
    return grad_a, grad_b, None if bias is None else grad_bias.to(bias.dtype)
