"""Triton kernels of activations with a bias and a gate; see ``activation.py``.

All of them are x times a gate of x: Phi(x) of GELU, and the logistic function of some u(x) of the
others. Sums over rows, for the bias, go as ``rational_triton.py`` describes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.reduction import sum_rows
from .common.tiles import Tile, cdiv, contiguous, slot_width

# Numbers by which the kernels know them.
_KINDS = {'gelu': 0, 'gelu_tanh': 1, 'quick_gelu': 2, 'silu': 3}
# Tiles that one program walks through.
_FORWARD_LOOPS = 4
_BACKWARD_LOOPS = 16


@triton.jit
def _gate(x, KIND: tl.constexpr):
    """g of act(x) = x g(x)."""
    if KIND == 0:
        g = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    elif KIND == 1:
        g = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif KIND == 2:
        g = tl.sigmoid(1.702 * x)
    else:
        g = tl.sigmoid(x)
    return g


@triton.jit
def _slope(x, g, KIND: tl.constexpr):
    """act'(x) = g(x) + x g'(x)."""
    if KIND == 0:
        slope = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif KIND == 1:
        slope = g * (1.0 - g) * 1.5957691216057308 * (1.0 + 3.0 * 0.044715 * x * x)
    elif KIND == 2:
        slope = g * (1.0 - g) * 1.702
    else:
        slope = g * (1.0 - g)
    return g + x * slope


@triton.jit
def _activation_forward_kernel(
    x_ptr,
    bias_ptr,
    y_ptr,
    num_rows,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """y = act(x + bias), or act(gate) value, where the halves of x + bias are gate and value."""
    WIDTH: tl.constexpr = 2 * CHANNELS if GATED else CHANNELS
    slot = (tl.program_id(0) % COLUMN_TILES) * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot * VECTOR < CHANNELS
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
        if GATED:
            value_bias = tl.load(bias_ptr + CHANNELS + channel, mask=slot_mask, other=0.0)
            value_bias = value_bias.to(tl.float32)
    program_row = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    for _ in range(LOOPS):
        mask = slot_mask & (row < num_rows)
        x = tl.load(x_ptr + row * WIDTH + channel, mask=mask, other=0.0).to(tl.float32)
        if HAS_BIAS:
            x += bias
        y = x * _gate(x, KIND)
        if GATED:
            value = tl.load(x_ptr + row * WIDTH + CHANNELS + channel, mask=mask, other=0.0)
            value = value.to(tl.float32)
            if HAS_BIAS:
                value += value_bias
            y *= value
        tl.store(y_ptr + row * CHANNELS + channel, y, mask=mask)
        row += ROWS


@triton.jit
def _activation_backward_kernel(
    grad_ptr,
    x_ptr,
    bias_ptr,
    grad_x_ptr,
    partial_ptr,
    num_rows,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """grad_x = grad act'(x + bias), or, where the halves of x + bias are gate and value, of the
    halves grad value act'(gate) and grad act(gate); for the bias the sums over this program's
    rows."""
    WIDTH: tl.constexpr = 2 * CHANNELS if GATED else CHANNELS
    slot = (tl.program_id(0) % COLUMN_TILES) * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot * VECTOR < CHANNELS
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
        bias_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
        if GATED:
            value_bias = tl.load(bias_ptr + CHANNELS + channel, mask=slot_mask, other=0.0)
            value_bias = value_bias.to(tl.float32)
            value_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    program_row = (tl.program_id(0) // COLUMN_TILES).to(tl.int64)
    row = program_row * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    for _ in range(LOOPS):
        mask = slot_mask & (row < num_rows)
        grad = tl.load(grad_ptr + row * CHANNELS + channel, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row * WIDTH + channel, mask=mask, other=0.0).to(tl.float32)
        if HAS_BIAS:
            x += bias
        g = _gate(x, KIND)
        if GATED:
            value = tl.load(x_ptr + row * WIDTH + CHANNELS + channel, mask=mask, other=0.0)
            value = value.to(tl.float32)
            if HAS_BIAS:
                value += value_bias
            grad_value = grad * x * g
            tl.store(grad_x_ptr + row * WIDTH + CHANNELS + channel, grad_value, mask=mask)
            if HAS_BIAS:
                value_sum += grad_value
            grad *= value
        grad *= _slope(x, g, KIND)
        tl.store(grad_x_ptr + row * WIDTH + channel, grad, mask=mask)
        if HAS_BIAS:
            bias_sum += grad
        row += ROWS
    if HAS_BIAS:
        partial_ptr += program_row * WIDTH
        tl.store(partial_ptr + channel, tl.sum(bias_sum, axis=0)[None, :, :], mask=slot_mask)
        if GATED:
            value_sum = tl.sum(value_sum, axis=0)[None, :, :]
            tl.store(partial_ptr + CHANNELS + channel, value_sum, mask=slot_mask)


@cache_plan
def _plan(
    channels: int, kind: str, gated: bool, dtypes: tuple[torch.dtype | None, ...], loops: int
) -> Plan:
    itemsize = dtypes[0].itemsize
    vector = slot_width(channels, 1, most=16 // itemsize)
    tile = Tile.of(channels // vector, vector, itemsize)
    return Plan(
        CHANNELS=channels,
        KIND=_KINDS[kind],
        GATED=gated,
        HAS_BIAS=dtypes[1] is not None,
        COLUMN_TILES=cdiv(channels, tile.slots * vector),
        LOOPS=loops,
        **tile.constants(),
    )


def _dtypes(*tensors: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple([None if tensor is None else tensor.dtype for tensor in tensors])


def empty_output(x: Tensor, bias: Tensor | None, kind: str, gated: bool) -> Tensor:
    """Uninitialised result of ``forward``."""
    return x.new_empty(*x.shape[:-1], x.shape[-1] // (1 + gated))


def forward(x: Tensor, bias: Tensor | None, kind: str, gated: bool) -> Tensor:
    """See ``activation``."""
    y = empty_output(x, bias, kind, gated)
    plan = _plan(y.shape[-1], kind, gated, _dtypes(x, bias), _FORWARD_LOOPS)
    num_rows = y.numel() // y.shape[-1]
    launch(
        _activation_forward_kernel,
        plan['COLUMN_TILES'] * cdiv(num_rows, plan['ROWS'] * _FORWARD_LOOPS),
        plan,
        (x.contiguous(), contiguous(bias), y),
        (num_rows,),
    )
    return y


def empty_gradients(
    grad: Tensor, x: Tensor, bias: Tensor | None, kind: str, gated: bool
) -> tuple[Tensor, Tensor | None]:
    """Uninitialised results of ``backward``."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return grad_x, None if bias is None else torch.empty_like(bias)


def backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, kind: str, gated: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of the bias, none without one."""
    width = x.shape[-1]
    num_rows = x.numel() // width
    plan = _plan(width // (1 + gated), kind, gated, _dtypes(x, bias, grad), _BACKWARD_LOOPS)
    programs = cdiv(num_rows, plan['ROWS'] * _BACKWARD_LOOPS)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    partial = x.new_empty(0 if bias is None else programs, width, dtype=torch.float32)
    launch(
        _activation_backward_kernel,
        plan['COLUMN_TILES'] * programs,
        plan,
        (grad.contiguous(), x.contiguous(), contiguous(bias), grad_x, partial),
        (num_rows,),
    )
    return grad_x, None if bias is None else sum_rows(partial).to(bias.dtype)
