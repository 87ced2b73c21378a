"""Triton kernels of residual addition, layer normalisation and rational function.

A program owns whole rows: a tile is (rows, slots, lanes) with all the channels of a row in it, so
that means run over registers. Statistics are kept, (rows,) each; everything else is computed again
in the backward pass, which also adds the gradient of the residual stream and scales that of the
branch. Sums over rows (weight, bias, coefficients) go as ``common/reduction.py`` describes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import Plan, cache_plan, launch
from .common.rational import (
    approximates_division,
    differentiate,
    evaluate,
    load_coefficients,
    load_magnitudes,
)
from .common.reduction import finish, store_sums, zero_sums
from .common.tiles import cdiv, contiguous, slot_width

_MAX_CHANNELS = 4096
# Tiles that one program walks through.
_FORWARD_LOOPS = 4
_BACKWARD_LOOPS = 16


@triton.jit
def _row_sum(x):
    """(rows, slots, lanes) to (rows, 1, 1)"""
    return tl.sum(tl.sum(x, axis=2), axis=1)[:, None, None]


@triton.jit
def _add_layer_norm_forward_kernel(
    x_ptr,
    branch_ptr,
    branch_bias_ptr,
    scale_ptr,
    weight_ptr,
    bias_ptr,
    a_ptr,
    b_ptr,
    total_ptr,
    y_ptr,
    statistics_ptr,
    num_rows,
    rows_per_sample,
    eps,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_BRANCH_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ACT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """total = x + scale (branch + branch_bias), y = F((total - mean) rstd weight + bias), where
    mean = sum(total) / C and rstd = 1 / sqrt(sum((total - mean)^2) / C + eps)."""
    NUM_SLOTS: tl.constexpr = CHANNELS // VECTOR
    slot = tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot < NUM_SLOTS
    weight = tl.load(weight_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
    if HAS_BRANCH_BIAS:
        shift = tl.load(branch_bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
    if HAS_ACT:
        slot = tl.where(slot_mask, slot, 0)
        a = load_coefficients(a_ptr, slot // (NUM_SLOTS // A_GROUPS), M + 1, tl.float32)
        b = load_magnitudes(b_ptr, slot // (NUM_SLOTS // B_GROUPS), N, tl.float32)
    row = tl.program_id(0).to(tl.int64) * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    for _ in range(LOOPS):
        row_mask = row < num_rows
        mask = slot_mask & row_mask
        offset = row * CHANNELS + channel
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        if HAS_BRANCH:
            branch = tl.load(branch_ptr + offset, mask=mask, other=0.0).to(tl.float32)
            if HAS_BRANCH_BIAS:
                branch += shift
            if HAS_SCALE:
                scale = tl.load(scale_ptr + row // rows_per_sample, mask=row_mask, other=0.0)
                branch *= scale.to(tl.float32)
            x += branch
            tl.store(total_ptr + offset, x, mask=mask)
            # Statistics are those of what is kept.
            x = x.to(total_ptr.dtype.element_ty).to(tl.float32)
        mean = _row_sum(x) / CHANNELS
        centred = tl.where(slot_mask, x - mean, 0.0)
        # eps comes in double precision from a compiled program.
        variance = _row_sum(centred * centred) / CHANNELS
        rstd = 1.0 / tl.sqrt(variance + tl.cast(eps, tl.float32))
        y = centred * rstd * weight + bias
        if HAS_ACT:
            y = evaluate(y, a, b, M, N, APPROXIMATE)
        tl.store(y_ptr + offset, y, mask=mask)
        tl.store(statistics_ptr + row, mean, mask=row_mask)
        tl.store(statistics_ptr + num_rows + row, rstd, mask=row_mask)
        row += ROWS


@triton.jit
def _add_layer_norm_backward_kernel(
    total_ptr,
    grad_total_ptr,
    grad_ptr,
    statistics_ptr,
    weight_ptr,
    bias_ptr,
    a_ptr,
    b_ptr,
    scale_ptr,
    grad_x_ptr,
    grad_branch_ptr,
    y_ptr,
    partial_ptr,
    num_rows,
    rows_per_sample,
    CHANNELS: tl.constexpr,
    A_GROUPS: tl.constexpr,
    B_GROUPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_GRAD_TOTAL: tl.constexpr,
    HAS_GRAD_BRANCH: tl.constexpr,
    HAS_BRANCH_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    WITH_OUTPUT: tl.constexpr,
    HAS_ACT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """With n = (total - mean) rstd, z = n weight + bias, g = grad F'(z) and h = g weight::

        grad_x      = rstd (h - sum(h) / C - n sum(h n) / C) + grad_total
        grad_branch = scale grad_x

    and for the reduction the sums over this program's rows of g n (weight), g (bias), grad_branch
    (branch_bias) and of F's coefficients.
    """
    NUM_SLOTS: tl.constexpr = CHANNELS // VECTOR
    slot = tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot < NUM_SLOTS
    weight = tl.load(weight_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
    if HAS_ACT:
        bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
        slot = tl.where(slot_mask, slot, 0)
        a = load_coefficients(a_ptr, slot // (NUM_SLOTS // A_GROUPS), M + 1, tl.float32)
        b = load_magnitudes(b_ptr, slot // (NUM_SLOTS // B_GROUPS), N, tl.float32)
        sums = zero_sums(M + 1 + N, ROWS, SLOTS, tl.float32)
    weight_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    bias_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    if HAS_BRANCH_BIAS:
        shift_sum = tl.zeros([ROWS, SLOTS, VECTOR], tl.float32)
    row = tl.program_id(0).to(tl.int64) * (ROWS * LOOPS) + tl.arange(0, ROWS)[:, None, None]
    for _ in range(LOOPS):
        row_mask = row < num_rows
        mask = slot_mask & row_mask
        offset = row * CHANNELS + channel
        x = tl.load(total_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(statistics_ptr + row, mask=row_mask, other=0.0)
        rstd = tl.load(statistics_ptr + num_rows + row, mask=row_mask, other=0.0)
        normed = tl.where(mask, (x - mean) * rstd, 0.0)
        if HAS_ACT:
            z = normed * weight + bias
            grad, sums, y = differentiate(z, grad, a, b, sums, M, N, tl.float32, APPROXIMATE)
            if WITH_OUTPUT:
                tl.store(y_ptr + offset, y, mask=mask)
        weight_sum += grad * normed
        bias_sum += grad
        grad *= weight
        slope = _row_sum(grad * normed) / CHANNELS
        grad = (grad - _row_sum(grad) / CHANNELS - normed * slope) * rstd
        if HAS_GRAD_TOTAL:
            grad += tl.load(grad_total_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + offset, grad, mask=mask)
        if HAS_SCALE:
            scale = tl.load(scale_ptr + row // rows_per_sample, mask=row_mask, other=0.0)
            grad *= scale.to(tl.float32)
        if HAS_GRAD_BRANCH:
            tl.store(grad_branch_ptr + offset, grad, mask=mask)
        if HAS_BRANCH_BIAS:
            shift_sum += grad
        row += ROWS

    # Sums for weight, bias and the branch's bias, then those for the coefficients.
    SHIFTS: tl.constexpr = (2 + HAS_BRANCH_BIAS) * CHANNELS
    COEFFICIENTS: tl.constexpr = (M + 1 + N) * NUM_SLOTS if HAS_ACT else 0
    partial_ptr += tl.program_id(0).to(tl.int64) * (SHIFTS + COEFFICIENTS)
    tl.store(partial_ptr + channel, tl.sum(weight_sum, axis=0)[None, :, :], mask=slot_mask)
    bias_sum = tl.sum(bias_sum, axis=0)[None, :, :]
    tl.store(partial_ptr + CHANNELS + channel, bias_sum, mask=slot_mask)
    if HAS_BRANCH_BIAS:
        shift_sum = tl.sum(shift_sum, axis=0)[None, :, :]
        tl.store(partial_ptr + 2 * CHANNELS + channel, shift_sum, mask=slot_mask)
    if HAS_ACT:
        partial_ptr += SHIFTS
        slot = tl.arange(0, SLOTS)
        store_sums(partial_ptr, sums, slot, slot < NUM_SLOTS, M + 1 + N, NUM_SLOTS, 0)


def supports(x: Tensor, branch: Tensor | None) -> bool:
    """Whether the kernels take these tensors; the plain path takes all."""
    dtypes = {x.dtype} if branch is None else {x.dtype, branch.dtype}
    return torch.float64 not in dtypes and 0 < x.shape[-1] <= _MAX_CHANNELS and x.numel() > 0


@cache_plan
def _plan(
    channels: int,
    a_shape: torch.Size | None,
    b_shape: torch.Size | None,
    is_cuda: bool,
    dtypes: tuple[torch.dtype | None, ...],
    **others: bool | int,
) -> Plan:
    groups = (1, 1) if a_shape is None else (a_shape[0], b_shape[0])
    # Four lanes: 16 bytes of a stream in float32.
    vector = slot_width(channels, *groups, most=4)
    slots = triton.next_power_of_2(channels // vector)
    return Plan(
        CHANNELS=channels,
        A_GROUPS=groups[0],
        B_GROUPS=groups[1],
        M=0 if a_shape is None else a_shape[1] - 1,
        N=0 if b_shape is None else b_shape[1],
        HAS_ACT=a_shape is not None,
        APPROXIMATE=approximates_division(is_cuda, torch.float32),
        ROWS=max(1, 1024 // (slots * vector)),
        SLOTS=slots,
        VECTOR=vector,
        num_warps=max(4, min(16, slots * vector // 256)),
        **others,
    )


def _shape(coefficients: Tensor | None) -> torch.Size | None:
    return None if coefficients is None else coefficients.shape


def _dtypes(*tensors: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple([None if tensor is None else tensor.dtype for tensor in tensors])


def _empty(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised contiguous tensor of x's shape; in half of the time of ``x.new_empty``."""
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def empty_outputs(
    x: Tensor, branch: Tensor | None, *others: Tensor | float | torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (total, y, (means, reciprocal standard deviations)).

    total is empty where nothing is added to x. Arguments are those of ``forward``.
    """
    dtype = others[-1]
    if branch is None:
        total = x.new_empty(0)
    else:
        total = _empty(x, torch.promote_types(x.dtype, branch.dtype))
    statistics = x.new_empty(2, x.numel() // x.shape[-1], dtype=torch.float32)
    return total, _empty(x, dtype), statistics


def forward(
    x: Tensor,
    branch: Tensor | None,
    branch_bias: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor | None,
    denominator: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, y, statistics); see ``add_layer_norm``."""
    inputs = x, branch, branch_bias, scale, weight, bias, numerator, denominator
    outputs = empty_outputs(*inputs, eps, dtype)
    plan = _plan(
        x.shape[-1],
        _shape(numerator),
        _shape(denominator),
        x.is_cuda,
        _dtypes(*inputs, *outputs),
        HAS_BRANCH=branch is not None,
        HAS_BRANCH_BIAS=branch_bias is not None,
        HAS_SCALE=scale is not None,
        LOOPS=_FORWARD_LOOPS,
    )
    num_rows = outputs[2].shape[1]
    launch(
        _add_layer_norm_forward_kernel,
        cdiv(num_rows, plan['ROWS'] * _FORWARD_LOOPS),
        plan,
        (*map(contiguous, inputs), *outputs),
        (num_rows, num_rows // x.shape[0], eps),
    )
    return outputs


def _own_branch(total: Tensor, scale: Tensor | None, branch_dtype: torch.dtype | None) -> bool:
    """Whether the branch has another gradient than x."""
    return branch_dtype is not None and (scale is not None or branch_dtype != total.dtype)


def empty_gradients(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor | None,
    denominator: Tensor | None,
    scale: Tensor | None,
    branch_dtype: torch.dtype | None,
    has_branch_bias: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Uninitialised gradients of x; of weight, bias and the branch's bias, if it has one, in one
    tensor (2 or 3, C); of the branch, if it is not that of x; of numerator and denominator.
    """
    own_branch = _own_branch(total, scale, branch_dtype)
    return (
        _empty(total),
        statistics.new_empty(2 + has_branch_bias, total.shape[-1]),
        _empty(total, branch_dtype) if own_branch else None,
        None if numerator is None else _empty(numerator),
        None if denominator is None else _empty(denominator),
    )


def backward(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor | None,
    denominator: Tensor | None,
    scale: Tensor | None,
    branch_dtype: torch.dtype | None,
    has_branch_bias: bool,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients as ``empty_gradients`` describes them; y, if given, is filled once more."""
    has_act = numerator is not None
    own_branch = _own_branch(total, scale, branch_dtype)
    inputs = total, grad_total, grad, statistics, weight, bias, numerator, denominator
    plan = _plan(
        total.shape[-1],
        _shape(numerator),
        _shape(denominator),
        total.is_cuda,
        (*_dtypes(*inputs, scale, y), branch_dtype),
        HAS_GRAD_TOTAL=grad_total is not None,
        HAS_GRAD_BRANCH=own_branch,
        HAS_BRANCH_BIAS=has_branch_bias,
        HAS_SCALE=scale is not None,
        WITH_OUTPUT=y is not None,
        LOOPS=_BACKWARD_LOOPS,
    )
    num_rows, channels = statistics.shape[1], total.shape[-1]
    orders = numerator.shape[1] + denominator.shape[1] if has_act else 0
    shifts = (2 + has_branch_bias) * channels
    programs = cdiv(num_rows, plan['ROWS'] * _BACKWARD_LOOPS)
    partial = statistics.new_empty(programs, shifts + orders * (channels // plan['VECTOR']))
    grad_x = _empty(total)
    grad_branch = _empty(total, branch_dtype) if own_branch else None
    inputs = [contiguous(tensor) for tensor in inputs]
    launch(
        _add_layer_norm_backward_kernel,
        programs,
        plan,
        (*inputs, contiguous(scale), grad_x, grad_branch, y, partial),
        (num_rows, num_rows // total.shape[0]),
    )
    vectors, *coefficients = finish(partial, shifts, *inputs[6:])
    return grad_x, vectors.view(-1, channels), grad_branch, *coefficients
