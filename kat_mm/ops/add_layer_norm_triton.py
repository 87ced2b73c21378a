"""Triton kernels of residual addition, layer normalisation and rational function.

A program owns whole rows: a tile is (rows, slots, lanes) with all the channels of a row in it, so
that means run over registers. Statistics are kept, (rows,) each; everything else is computed again
in the backward pass, which also adds the gradient of the residual stream and scales that of the
branch. Sums over rows (weight, bias, coefficients) go as ``rational_triton.py`` describes.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Constants, launch
from .rational_triton import (
    approximate_division,
    differentiate,
    evaluate,
    finish,
    load_coefficients,
    load_magnitudes,
    store_sums,
    zero_sums,
)
from .tiles import cdiv, contiguous, slot_width

_MAX_CHANNELS = 4096
# Tiles that one program walks through.
_FORWARD_LOOPS = 4
_BACKWARD_LOOPS = 16


@triton.jit
def _row_sum(x):
    """(rows, slots, lanes) to (rows, 1, 1)"""
    return tl.sum(tl.sum(x, axis=2), axis=1)[:, None, None]


@triton.jit
def _forward_kernel(
    x_ptr,
    branch_ptr,
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
    HAS_SCALE: tl.constexpr,
    HAS_ACT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
    NUM_SLOTS: tl.constexpr = CHANNELS // VECTOR
    slot = tl.arange(0, SLOTS)[None, :, None]
    channel = slot * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    slot_mask = slot < NUM_SLOTS
    weight = tl.load(weight_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=slot_mask, other=0.0).to(tl.float32)
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
            if HAS_SCALE:
                branch *= tl.load(scale_ptr + row // rows_per_sample, mask=row_mask, other=0.0)
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
def _backward_kernel(
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
    HAS_SCALE: tl.constexpr,
    HAS_ACT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    LOOPS: tl.constexpr,
):
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
            grad, sums = differentiate(z, grad, a, b, sums, M, N, tl.float32, APPROXIMATE)
        weight_sum += grad * normed
        bias_sum += grad
        grad *= weight
        slope = _row_sum(grad * normed) / CHANNELS
        grad = (grad - _row_sum(grad) / CHANNELS - normed * slope) * rstd
        if HAS_GRAD_TOTAL:
            grad += tl.load(grad_total_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + offset, grad, mask=mask)
        if HAS_GRAD_BRANCH:
            if HAS_SCALE:
                grad *= tl.load(scale_ptr + row // rows_per_sample, mask=row_mask, other=0.0)
            tl.store(grad_branch_ptr + offset, grad, mask=mask)
        row += ROWS

    # Sums for weight and bias, then those for the coefficients.
    COEFFICIENTS: tl.constexpr = (M + 1 + N) * NUM_SLOTS if HAS_ACT else 0
    partial_ptr += tl.program_id(0).to(tl.int64) * (2 * CHANNELS + COEFFICIENTS)
    tl.store(partial_ptr + channel, tl.sum(weight_sum, axis=0)[None, :, :], mask=slot_mask)
    partial_ptr += CHANNELS
    tl.store(partial_ptr + channel, tl.sum(bias_sum, axis=0)[None, :, :], mask=slot_mask)
    if HAS_ACT:
        partial_ptr += CHANNELS
        slot = tl.arange(0, SLOTS)
        store_sums(partial_ptr, sums, slot, slot < NUM_SLOTS, M + 1 + N, NUM_SLOTS, 0)


def supports(x: Tensor, branch: Tensor | None) -> bool:
    """Whether the kernels take these tensors; the plain path takes all."""
    dtypes = {x.dtype} if branch is None else {x.dtype, branch.dtype}
    return torch.float64 not in dtypes and 0 < x.shape[-1] <= _MAX_CHANNELS and x.numel() > 0


@functools.cache
def _constants(
    channels: int,
    a_shape: torch.Size | None,
    b_shape: torch.Size | None,
    is_cuda: bool,
    dtypes: tuple[torch.dtype | None, ...],
    **others: bool | int,
) -> Constants:
    groups = (1, 1) if a_shape is None else (a_shape[0], b_shape[0])
    # Four lanes: 16 bytes of a stream in float32.
    vector = slot_width(channels, *groups, most=4)
    slots = triton.next_power_of_2(channels // vector)
    return Constants(
        dtypes,
        CHANNELS=channels,
        A_GROUPS=groups[0],
        B_GROUPS=groups[1],
        M=0 if a_shape is None else a_shape[1] - 1,
        N=0 if b_shape is None else b_shape[1],
        HAS_ACT=a_shape is not None,
        APPROXIMATE=approximate_division(is_cuda, torch.float32),
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


def empty_outputs(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor | None,
    denominator: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (total, y, (means, reciprocal standard deviations)).

    total is empty where nothing is added to x.
    """
    if branch is None:
        total = x.new_empty(0)
    else:
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
    statistics = x.new_empty(2, x.numel() // x.shape[-1], dtype=torch.float32)
    return total, x.new_empty(x.shape, dtype=dtype), statistics


def forward(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor | None,
    denominator: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, y, statistics); see ``add_layer_norm``."""
    outputs = empty_outputs(x, branch, scale, weight, bias, numerator, denominator, eps, dtype)
    constants = _constants(
        x.shape[-1],
        _shape(numerator),
        _shape(denominator),
        x.is_cuda,
        _dtypes(x, branch, scale, weight, bias, numerator, denominator, *outputs),
        HAS_BRANCH=branch is not None,
        HAS_SCALE=scale is not None,
        LOOPS=_FORWARD_LOOPS,
    )
    num_rows = outputs[2].shape[1]
    launch(
        _forward_kernel,
        cdiv(num_rows, constants['ROWS'] * _FORWARD_LOOPS),
        constants,
        (
            x.contiguous(),
            contiguous(branch),
            contiguous(scale),
            weight.contiguous(),
            bias.contiguous(),
            contiguous(numerator),
            contiguous(denominator),
            *outputs,
        ),
        (num_rows, num_rows // len(x), eps),
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised gradients of x, branch, (weight, bias), numerator and denominator.

    That of the branch is empty where it is that of x; the last two are empty without a function.
    """
    own_branch = _own_branch(total, scale, branch_dtype)
    coefficients = (
        statistics.new_empty(0) if c is None else c.new_empty(c.shape)
        for c in (numerator, denominator)
    )
    return (
        total.new_empty(total.shape),
        total.new_empty(total.shape if own_branch else 0, dtype=branch_dtype),
        statistics.new_empty(2, total.shape[-1]),
        *coefficients,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as ``empty_gradients`` describes them."""
    has_act, has_scale = numerator is not None, scale is not None
    own_branch = _own_branch(total, scale, branch_dtype)
    constants = _constants(
        total.shape[-1],
        _shape(numerator),
        _shape(denominator),
        total.is_cuda,
        (*_dtypes(total, grad_total, grad, weight, bias, numerator, denominator), branch_dtype),
        HAS_GRAD_TOTAL=grad_total is not None,
        HAS_GRAD_BRANCH=own_branch,
        HAS_SCALE=has_scale,
        LOOPS=_BACKWARD_LOOPS,
    )
    num_rows, channels = statistics.shape[1], total.shape[-1]
    num_slots = channels // constants['VECTOR']
    orders = numerator.shape[1] + denominator.shape[1] if has_act else 0
    programs = cdiv(num_rows, constants['ROWS'] * _BACKWARD_LOOPS)
    grad_x = total.new_empty(total.shape)
    grad_branch = total.new_empty(total.shape if own_branch else 0, dtype=branch_dtype)
    partial = statistics.new_empty(programs, 2 * channels + orders * num_slots)
    numerator, denominator = contiguous(numerator), contiguous(denominator)
    launch(
        _backward_kernel,
        programs,
        constants,
        (
            total.contiguous(),
            contiguous(grad_total),
            grad.contiguous(),
            statistics,
            weight.contiguous(),
            bias.contiguous(),
            numerator,
            denominator,
            contiguous(scale),
            grad_x,
            grad_branch,
            partial,
        ),
        (num_rows, num_rows // len(total)),
    )
    grad_norm, grad_a, grad_b = finish(partial, 2 * channels, numerator, denominator)
    return grad_x, grad_branch, grad_norm.view(2, channels), grad_a, grad_b
