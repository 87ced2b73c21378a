"""Logits resized to their labels and cross-entropied in one pass: checks, dispatch, autograd.

One file each: this one, ``resized_cross_entropy_eager.py`` (any device, image by image) and
``resized_cross_entropy_triton.py`` (CUDA). The logits are never held at the size of the labels for
the whole batch; saved for backward is one number and one label for each pixel.
"""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import resized_cross_entropy_eager as eager
from .common import backend
from .common.checks import check_device, check_floating, check_maps, check_size
from .common.registration import Operator

kernels = backend.import_kernels(__name__)

_MOST_CLASSES = torch.iinfo(torch.int16).max


class ResizedCrossEntropy(NamedTuple):
    """Sums over all pixels whose label is not ignored, each a tensor without dimensions.

    Attributes:
        loss: Of the cross-entropies, each times the weight of its class. Differentiable.
        weight: Of the weights of the labels' classes; their number where classes have none.
        correct: Number of pixels whose label has the largest logit, among equal ones the first.
        valid: Number of pixels.
    """

    loss: Tensor
    weight: Tensor
    correct: Tensor
    valid: Tensor


def resized_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> ResizedCrossEntropy:
    """Cross-entropy of bilinearly resized logits, and how many pixels they classify as labelled.

    Arithmetic is in float32 for half precision. Same input, same bits, also of the gradient.
    Differentiable once, for ``logits`` alone.

    Args:
        logits: (B, K, h, w), any strides. float16, bfloat16, float32 or float64.
        labels: Classes of all pixels (B, H, W), of an integer dtype. Others than ``ignore_index``
            and 0 to K - 1 raise on a CPU and make ``loss`` NaN on a GPU, which does not wait for
            them.
        class_weight: Weights of the classes (K,). Default: 1 each.
        ignore_index: Label of pixels that count for nothing. Default: 255.
        align_corners: As in ``resize``. Default: False.

    Raises:
        ValueError: A shape does not fit, or the tensors lie on different devices.
        TypeError: logits or class_weight are no floating-point tensors, or labels are no integers.
        IndexError: A label is no class (CPU).
    """
    name = 'resized_cross_entropy'
    check_maps(name, 'logits', logits)
    _check(name, logits, labels, class_weight)
    sums, _, _ = _operator(logits, labels, class_weight, ignore_index, align_corners)
    return ResizedCrossEntropy(sums[0], *sums.detach()[1:].unbind())


def _check(name: str, logits: Tensor, labels: Tensor, class_weight: Tensor | None) -> None:
    if labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64):
        raise TypeError(f'{name}: labels have dtype {labels.dtype}; it must be an integer one')
    if labels.dim() != 3 or len(labels) != len(logits):
        raise ValueError(
            f'{name}: labels are {tuple(labels.shape)}; '
            f'for logits of {tuple(logits.shape)} they must be ({len(logits)}, H, W)'
        )
    check_size(name, labels.shape[1:], 'the last two dimensions of labels')
    classes = logits.shape[1]
    if not 1 <= classes <= _MOST_CLASSES:
        raise ValueError(f'{name}: {classes} classes; it takes 1 to {_MOST_CLASSES}')
    if class_weight is not None:
        check_floating(name, 'class_weight', class_weight)
        if class_weight.shape != (classes,):
            raise ValueError(
                f'{name}: class_weight is {tuple(class_weight.shape)}; it must be ({classes},)'
            )
    for other, tensor in (('labels', labels), ('class_weight', class_weight)):
        if tensor is not None:
            check_device(name, other, tensor, 'logits', logits)


def _module(logits: Tensor) -> ModuleType:
    served = backend.runs_kernels(logits) and kernels.supports(logits)
    return kernels if served else eager


def _forward(logits, labels, class_weight, ignore_index, align_corners):
    inputs = logits, labels, class_weight, ignore_index, align_corners
    return _module(logits).forward(*inputs)


def _backward(grad, logits, lse, targets, class_weight, align_corners):
    return _module(logits).backward(grad, logits, lse, targets, class_weight, align_corners)


def _setup_context(ctx, inputs, output):
    logits, _, class_weight, _, ctx.align_corners = inputs
    _, lse, targets = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse, targets)
    ctx.save_for_backward(logits, lse, targets, class_weight)


def _formula(ctx, backward, grad, *_):
    logits, lse, targets, class_weight = ctx.saved_tensors
    # Of the four sums the first alone depends on the logits smoothly.
    grad_logits = None
    if grad is not None:
        grad_logits = backward(
            grad[0].contiguous(), logits, lse, targets, class_weight, ctx.align_corners
        )
    return grad_logits, None, None, None, None


_operator = Operator(
    'resized_cross_entropy',
    '(Tensor logits, Tensor labels, Tensor? class_weight, int ignore_index, bool align_corners)'
    ' -> (Tensor, Tensor, Tensor)',
    forward=_forward,
    fake=eager.empty_outputs,
    backward_signature='(Tensor grad, Tensor logits, Tensor lse, Tensor targets,'
    ' Tensor? class_weight, bool align_corners) -> Tensor',
    backward=_backward,
    backward_fake=lambda grad, logits, *_: eager.empty_gradient(logits),
    setup_context=_setup_context,
    formula=_formula,
)
