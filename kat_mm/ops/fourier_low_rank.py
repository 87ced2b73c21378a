"""Fourier functions of attention scores, summed over the keys: checks, dispatch, autograd.

One file each: this one, ``fourier_low_rank_eager.py`` (any device), ``fourier_low_rank_triton.py``
(CUDA) and ``fourier_low_rank_standard.py`` (exported programs). The first two never hold the scores
of all queries and keys, and the operator saves nothing for backward but its inputs.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch._decomp import register_decomposition

from . import fourier_low_rank_eager as eager
from . import fourier_low_rank_standard as standard
from .common import backend
from .common.checks import check_device, check_floating
from .common.registration import Operator

kernels = backend.import_kernels(__name__)


def fourier_low_rank(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    """Take each row of attention scores through a Fourier KAN layer R^N -> R^r (KArAt).

    With s = ``scale`` q k^T, and a, b the two halves of ``coefficients``, for each head::

        y_ir = sum_j sum_{g=1..G} a_grj cos(g s_ij) + b_grj sin(g s_ij)

    This is the operator Phi of the low-rank KArAt (Maity et al. 2025); its second factor and the
    values are plain matrix products. Arithmetic is in float32 for half-precision input and in the
    widest input dtype otherwise; on CUDA, matrix products of half-precision input round their
    operands to it, cosines and coefficients too. Same input, same bits. Differentiable once.

    Args:
        q: Queries (B, heads, M, d), any strides. float16, bfloat16, float32 or float64.
        k: Keys (B, heads, N, d), of the same dtype.
        coefficients: (heads, 2 G, r, N): of the cosines of 1 to G, then of the sines.
        scale: Factor of the scores, typically d ** -0.5.

    Returns:
        Tensor (B, heads, M, r) of q's dtype, contiguous.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
        TypeError: An input is not a floating-point tensor, or q and k differ in dtype.
    """
    _check(q, k, coefficients)
    return _operator(q, k, coefficients, scale)


def _check(q: Tensor, k: Tensor, coefficients: Tensor) -> None:
    for name, tensor in (('q', q), ('k', k), ('coefficients', coefficients)):
        check_floating('fourier_low_rank', name, tensor)
        check_device('fourier_low_rank', name, tensor, 'q', q)
        if tensor.dim() != 4:
            raise ValueError(
                f'fourier_low_rank: {name} has shape {tuple(tensor.shape)}; it must have four '
                'dimensions, (B, heads, tokens, d), or (heads, 2 G, r, N) for the coefficients'
            )
    if k.dtype != q.dtype:
        raise TypeError(f'fourier_low_rank: q is {q.dtype} and k is {k.dtype}; give both one dtype')
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f'fourier_low_rank: q has shape {tuple(q.shape)} and k {tuple(k.shape)}; '
            'they may differ in the number of tokens alone'
        )
    heads, waves, _, keys = coefficients.shape
    if (heads, keys) != tuple(k.shape[1:3]) or waves % 2 or not waves:
        raise ValueError(
            f'fourier_low_rank: coefficients have shape {tuple(coefficients.shape)}; for k of '
            f'shape {tuple(k.shape)} it must be ({k.shape[1]}, 2 G, r, {k.shape[2]})'
        )


def _module(q: Tensor, coefficients: Tensor) -> ModuleType:
    served = backend.runs_kernels(q) and kernels.supports(q, coefficients)
    return kernels if served else eager


def _forward(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    return _module(q, coefficients).forward(q, k, coefficients, scale)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, coefficients: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _module(q, coefficients).backward(grad, q, k, coefficients, scale)


def _fake(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    return q.new_empty(*q.shape[:3], coefficients.shape[2])


def _backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, coefficients: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return eager.empty_gradients(q, k, coefficients)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _formula(ctx, backward, grad):
    return *backward(grad, *ctx.saved_tensors, ctx.scale), None


_operator = Operator(
    'fourier_low_rank',
    '(Tensor q, Tensor k, Tensor coefficients, float scale) -> Tensor',
    forward=_forward,
    fake=_fake,
    backward_signature='(Tensor grad, Tensor q, Tensor k, Tensor coefficients, float scale)'
    ' -> (Tensor, Tensor, Tensor)',
    backward=_backward,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    formula=_formula,
)
register_decomposition(torch.ops.kat_mm.fourier_low_rank.default)(standard.fourier_low_rank)
