"""A smooth absolute value: checks, choice, registration."""

from types import ModuleType

import torch
from torch import Tensor

from kat_mm.ops.common import backend
from kat_mm.ops.common.checks import check_floating
from kat_mm.ops.common.registration import Operator

from . import smooth_abs_eager as eager

kernels = backend.import_kernels(__name__)


def smooth_abs(x: Tensor, eps: float) -> Tensor:
    """``sqrt(x^2 + eps)`` of x of any shape, in x's dtype; differentiable once."""
    check_floating('smooth_abs', 'x', x)
    return _operator(x, eps)


def _module(x: Tensor) -> ModuleType:
    return kernels if backend.runs_kernels(x) else eager


def _forward(x: Tensor, eps: float) -> Tensor:
    return _module(x).forward(x, eps)


def _backward(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    return _module(x).backward(grad, x, eps)


def _fake(x: Tensor, *_) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    x, ctx.eps = inputs
    ctx.save_for_backward(x)


def _formula(ctx, backward, grad):
    return backward(grad, *ctx.saved_tensors, ctx.eps), None


_operator = Operator(
    'outside::smooth_abs',
    '(Tensor x, float eps) -> Tensor',
    forward=_forward,
    fake=_fake,
    backward_signature='(Tensor grad, Tensor x, float eps) -> Tensor',
    backward=_backward,
    backward_fake=_fake,
    setup_context=_setup_context,
    formula=_formula,
)
