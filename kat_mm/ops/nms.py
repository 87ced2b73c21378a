"""Non-maximum suppression of many sets of boxes, without waiting for the GPU."""

import torch
from torch import Tensor

from . import backend

if backend.HAS_TRITON:
    from . import nms_triton as kernels

# Beyond that a row of bits does not fit into registers.
_MOST_BOXES = 16384


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
    boxes = boxes.detach()
    if not boxes.numel():
        return valid.clone()
    kernels_can = boxes.dtype == torch.float32 and boxes.shape[1] <= _MOST_BOXES
    if backend.runs_kernels(boxes) and kernels_can:
        return kernels.suppress(boxes.contiguous(), valid.contiguous(), float(threshold))
    return _suppress(boxes, valid, threshold)


def _suppress(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    keep = valid.clone()
    corners, sizes = boxes.unflatten(2, (2, 2)), boxes[..., 2:] - boxes[..., :2]
    areas = sizes.prod(dim=2)
    for i in range(boxes.shape[1] - 1):
        low = torch.maximum(corners[:, i, None, 0], corners[:, i + 1 :, 0])
        high = torch.minimum(corners[:, i, None, 1], corners[:, i + 1 :, 1])
        common = (high - low).clamp_(min=0).prod(dim=2)
        union = areas[:, i, None] + areas[:, i + 1 :] - common
        keep[:, i + 1 :] &= ~(keep[:, i, None] & (common > threshold * union))
    return keep
