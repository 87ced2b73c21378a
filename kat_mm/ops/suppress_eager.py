"""Non-maximum suppression in plain PyTorch: all sets of boxes at once, one box after the other."""

import torch
from torch import Tensor


@torch.no_grad()
def forward(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """See ``suppress``."""
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
