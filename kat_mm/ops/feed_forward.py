"""The second half of a KAT block as one node of the graph.

Residual addition, normalisation, act1, fc1, act2 and fc2 (KAT, section 4), each computed as
elsewhere; what is saved is the work of autograd, of casts, and of the host that drives them. It is
an operator of other operators' kernels, and has none of its own.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .add_layer_norm import add_layer_norm, by_input, check, fused_dtype, keep_dtypes
from .add_layer_norm import kernels as norm_kernels
from .common.dtypes import compute_dtype
from .common.products import weight_gradient
from .common.registration import Operator
from .group_rational import kernels as rational_kernels
from .linear import linear
from .linear_rational import check_kept, is_differentiated, linear_rational
from .linear_rational import forward as linear_rational_forward


class FeedForwardParameters(NamedTuple):
    """Parameters of normalisation, act1, fc1, act2 and fc2, as their modules hold them.

    fc2's bias is not among them.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    numerator1: Tensor
    denominator1: Tensor
    weight1: Tensor
    bias1: Tensor
    numerator2: Tensor
    denominator2: Tensor
    weight2: Tensor

    @property
    def norm_and_act1(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first four, which the kernels of ``add_layer_norm`` take."""
        return self[:4]


def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    eps: float,
    parameters: FeedForwardParameters,
    branch_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``total = x + scale * (branch + branch_bias)``, ``fc2(act2(fc1(act1(LayerNorm(total)))))``.

    fc2 is without its bias, which is left to the next normalisation.

    Args:
        x: Residual stream, shape (B, ..., C).
        branch: Added to x, of its shape; may be none.
        scale: Factor of each sample's branch, shape (B,); may be none.
        eps: Added to the variance.
        parameters: See ``FeedForwardParameters``.
        branch_bias: Added to the branch, shape (C,); may be none.

    Returns:
        total and the result, both of x's shape; the result in the dtype of a linear map.
    """
    p = parameters
    norm, act1 = (p.norm_weight, p.norm_bias), (p.numerator1, p.denominator1)
    check(x, *norm, branch, scale, *act1, branch_bias)
    dtype = fused_dtype(x, branch)
    if dtype is not None:
        keep = is_differentiated(x, branch, branch_bias, *parameters)
        total, y, *_ = _operator(x, branch, branch_bias, scale, eps, dtype, keep, *parameters)
        return (x if branch is None else total), y
    total, y = add_layer_norm(x, *norm, eps, branch, scale, *act1, branch_bias)
    y = linear_rational(y, p.weight1, p.bias1, p.numerator2, p.denominator2)
    return total, linear(y, p.weight2, None)


def _forward(
    x: Tensor,
    branch: Tensor | None,
    branch_bias: Tensor | None,
    scale: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    keep: bool,
    *parameters: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(total, result, statistics of the normalisation, fc1's result, both weights in ``dtype``).

    total is empty where nothing is added to x, fc1's result where no gradient needs it (``keep``),
    and a weight where it is in ``dtype`` already.
    """
    p = FeedForwardParameters(*parameters)
    total, y, statistics = norm_kernels.forward(
        x, branch, branch_bias, scale, *p.norm_and_act1, eps, dtype
    )
    cast1, cast2 = _cast(p.weight1, dtype), _cast(p.weight2, dtype)
    z, hidden = linear_rational_forward(
        y, _used(p.weight1, cast1), p.bias1, p.numerator2, p.denominator2, keep
    )
    return total, F.linear(z, _used(p.weight2, cast2)), statistics, hidden, cast1, cast2


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.new_empty(0) if weight.dtype == dtype else weight.to(dtype)


def _used(weight: Tensor, cast: Tensor) -> Tensor:
    """The weight that is multiplied with."""
    return weight if weight.dtype == cast.dtype else cast


def _fake(x: Tensor, branch: Tensor | None, *others) -> tuple[Tensor, ...]:
    branch_bias, scale, eps, dtype, keep, *parameters = others
    p = FeedForwardParameters(*parameters)
    total, y, statistics = norm_kernels.empty_outputs(
        x, branch, branch_bias, scale, *p.norm_and_act1, eps, dtype
    )
    hidden = y.new_empty(*x.shape[:-1], len(p.weight1)) if keep else y.new_empty(0)
    return total, y, statistics, hidden, *(_cast(w, dtype) for w in (p.weight1, p.weight2))


def _setup_context(ctx, inputs, output):
    x, branch, branch_bias, scale, _, ctx.dtype, ctx.keep, *parameters = inputs
    total, _, statistics, hidden, cast1, cast2 = output
    p = FeedForwardParameters(*parameters)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(statistics, hidden, cast1, cast2)
    keep_dtypes(ctx, x, branch, branch_bias)
    p = p._replace(weight1=_used(p.weight1, cast1), weight2=_used(p.weight2, cast2))
    ctx.save_for_backward(x if branch is None else total, scale, statistics, hidden, *p)


def _formula(ctx, backward, grad_total, grad, *_):
    check_kept('feed_forward', ctx.keep)
    total, *saved = ctx.saved_tensors
    needed = FeedForwardParameters(*ctx.needs_input_grad[7:])
    grad_x, vectors, grad_branch, *others = backward(
        None if ctx.branch_dtype is None else grad_total,
        torch.zeros_like(total, dtype=ctx.dtype) if grad is None else grad,
        total,
        *saved,
        ctx.branch_dtype,
        ctx.branch_bias_dtype is not None,
        needed.weight1,
        needed.weight2,
    )
    grad_x, grad_branch, grad_branch_bias, *norm = by_input(ctx, grad_x, vectors, grad_branch)
    return grad_x, grad_branch, grad_branch_bias, *(None,) * 4, *norm, *others


def _backward(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    scale: Tensor | None,
    statistics: Tensor,
    hidden: Tensor,
    *others,
) -> tuple[Tensor | None, ...]:
    """Ten gradients: the five of ``add_layer_norm_triton``, the last two of them act1's; then those
    of weight1, bias1, act2's coefficients and weight2. A weight has one where it is needed.

    Weights are in the dtype that the forward pass multiplied in.
    """
    if torch.is_autocast_enabled('cuda'):
        # Called within autocast it computes as it does elsewhere.
        with torch.autocast('cuda', enabled=False):
            return _backward(grad_total, grad, total, scale, statistics, hidden, *others)
    *parameters, branch_dtype, has_branch_bias, need_weight1, need_weight2 = others
    p = FeedForwardParameters(*parameters)
    grad, hidden = grad.reshape(-1, grad.shape[-1]), hidden.flatten(0, -2)
    # What the activations gave is computed again: both kernels of the gradient can write it.
    z, grad_hidden, *act2, grad_bias1 = rational_kernels.backward_in_place(
        grad.mm(p.weight2), hidden, p.numerator2, p.denominator2, p.bias1
    )
    grad_weight2 = weight_gradient(grad, z) if need_weight2 else None
    y = torch.empty_like(total, dtype=grad.dtype, memory_format=torch.contiguous_format)
    kept = total, statistics, *p.norm_and_act1, scale, branch_dtype, has_branch_bias
    norm = norm_kernels.backward(grad_total, grad_hidden.mm(p.weight1), *kept, y)
    grad_weight1 = weight_gradient(grad_hidden, y) if need_weight1 else None
    return *norm, grad_weight1, grad_bias1, *act2, grad_weight2


def _backward_fake(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    scale: Tensor | None,
    statistics: Tensor,
    hidden: Tensor,
    *others,
) -> tuple[Tensor | None, ...]:
    *parameters, branch_dtype, has_branch_bias, need_weight1, need_weight2 = others
    p = FeedForwardParameters(*parameters)
    dtype = compute_dtype(grad.dtype)
    kept = total, statistics, *p.norm_and_act1, scale, branch_dtype, has_branch_bias
    norm = norm_kernels.empty_gradients(grad_total, grad, *kept)
    return (
        *norm,
        torch.empty_like(p.weight1, dtype=dtype) if need_weight1 else None,
        torch.empty_like(p.bias1),
        torch.empty_like(p.numerator2),
        torch.empty_like(p.denominator2),
        torch.empty_like(p.weight2, dtype=dtype) if need_weight2 else None,
    )


if norm_kernels:
    _parameters = ''.join(f', Tensor {name}' for name in FeedForwardParameters._fields)
    _operator = Operator(
        'feed_forward',
        '(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor? scale, float eps,'
        f' ScalarType dtype, bool keep{_parameters})'
        ' -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
        forward=_forward,
        fake=_fake,
        backward_signature='(Tensor? grad_total, Tensor grad, Tensor total, Tensor? scale,'
        f' Tensor statistics, Tensor hidden{_parameters}, ScalarType? branch_dtype,'
        ' bool has_branch_bias, bool need_weight1, bool need_weight2)'
        f' -> ({", ".join(["Tensor"] * 10)})',
        backward=_backward,
        backward_fake=_backward_fake,
        setup_context=_setup_context,
        formula=_formula,
    )
