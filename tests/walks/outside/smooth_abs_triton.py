"""Triton kernels of a smooth absolute value."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kat_mm.ops.common.dtypes import compute_dtype
from kat_mm.ops.common.launch import Plan, cache_plan, launch
from kat_mm.ops.common.tiles import cdiv

_SIZE = 1024


@triton.jit
def _forward_kernel(x_ptr, y_ptr, count, eps, DTYPE: tl.constexpr, SIZE: tl.constexpr):
    """y = sqrt(x^2 + eps)"""
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + offset, mask=offset < count, other=0.0).to(DTYPE)
    tl.store(y_ptr + offset, tl.sqrt(x * x + tl.cast(eps, DTYPE)), mask=offset < count)


@triton.jit
def _backward_kernel(
    grad_ptr, x_ptr, grad_x_ptr, count, eps, DTYPE: tl.constexpr, SIZE: tl.constexpr
):
    """grad_x = grad x / sqrt(x^2 + eps)"""
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + offset, mask=offset < count, other=0.0).to(DTYPE)
    grad = tl.load(grad_ptr + offset, mask=offset < count, other=0.0).to(DTYPE)
    grad_x = grad * x / tl.sqrt(x * x + tl.cast(eps, DTYPE))
    tl.store(grad_x_ptr + offset, grad_x, mask=offset < count)


@cache_plan
def _plan(dtypes: tuple[torch.dtype, ...]) -> Plan:
    return Plan(compute_dtype(*dtypes), SIZE=_SIZE, num_warps=4)


def forward(x: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    programs = cdiv(x.numel(), _SIZE)
    launch(_forward_kernel, programs, _plan((x.dtype,)), (x, y), (x.numel(), eps))
    return y


def backward(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    plan = _plan((grad.dtype, x.dtype))
    launch(_backward_kernel, cdiv(x.numel(), _SIZE), plan, (grad, x, grad_x), (x.numel(), eps))
    return grad_x
