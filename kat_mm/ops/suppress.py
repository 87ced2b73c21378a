"""Non-maximum suppression of many sets of boxes, without waiting for the GPU."""

import torch
from torch import Tensor

from . import suppress_eager as eager
from .common import backend
from .common.registration import Operator

kernels = backend.import_kernels(__name__)


def suppress(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Which boxes greedy non-maximum suppression keeps, in each of P sets of n boxes.

    In the order given, a box is kept if its IoU with every box kept before it is at most the
    threshold.

    Args:
        boxes: (P, n, 4), x1, y1, x2, y2; the boxes of a set in the order of falling scores.
        valid: Which of them take part, (P, n), bool.
        threshold: IoU above which the later box of two is left out.

    Returns:
        (P, n), bool.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4 or valid.shape != boxes.shape[:2]:
        raise ValueError(
            f'suppress: boxes of {tuple(boxes.shape)} and valid of {tuple(valid.shape)} must have '
            'the shapes (P, n, 4) and (P, n)'
        )
    return _operator(boxes, valid, float(threshold))


def _forward(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    served = backend.runs_kernels(boxes) and kernels.supports(boxes)
    return (kernels if served else eager).forward(boxes, valid, threshold)


def _fake(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid, memory_format=torch.contiguous_format)


_operator = Operator(
    'suppress',
    '(Tensor boxes, Tensor valid, float threshold) -> Tensor',
    forward=_forward,
    fake=_fake,
)
