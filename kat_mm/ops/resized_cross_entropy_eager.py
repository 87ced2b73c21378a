"""Resized cross-entropy in plain PyTorch, one image after the other.

With z the resized logits of a pixel, t its target and w the weight of that class::

    loss = w (lse - z_t),     lse = log sum_k exp(z_k)
    dz_k = w (exp(z_k - lse) - [k = t])
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.dtypes import compute_dtype, wide
from .resize_eager import gradient


def empty_outputs(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of loss, weight, correct and valid; log-sum-exp and target of each pixel."""
    dtype = compute_dtype(logits.dtype)
    return (
        logits.new_empty(4, dtype=dtype),
        logits.new_empty(labels.shape, dtype=dtype),
        logits.new_empty(labels.shape, dtype=torch.int16),
    )


def empty_gradient(logits: Tensor) -> Tensor:
    """Of the logits, contiguous."""
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _resized(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Logits (K, h, w) at ``size``, in float32 at least."""
    logits = wide(logits)[None]
    return F.interpolate(logits, size, mode='bilinear', align_corners=align_corners)[0]


def forward(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``resized_cross_entropy``; targets are labels, with -1 where they are ignored."""
    sums, lse, targets = empty_outputs(logits, labels)
    classes = logits.shape[1]
    weights = sums.new_ones(classes) if class_weight is None else class_weight.to(sums.dtype)
    total = sums.new_zeros(4, dtype=torch.float64)
    for image, labels_of_image in enumerate(labels):
        valid = labels_of_image != ignore_index
        target = labels_of_image.long()[valid]
        if target.numel() and not 0 <= target.min() <= target.max() < classes:
            raise IndexError(
                f'resized_cross_entropy: labels from {target.min()} to {target.max()}; '
                f'they must be 0 to {classes - 1}, or ignore_index={ignore_index}'
            )
        z = _resized(logits[image], labels_of_image.shape, align_corners)
        lse[image] = z.logsumexp(dim=0)
        targets[image] = labels_of_image.to(torch.int16).masked_fill(~valid, -1)
        weight = weights[target]
        losses = lse[image][valid] - z[:, valid].gather(0, target[None])[0]
        correct = (z.argmax(dim=0)[valid] == target).sum()
        total += torch.stack(
            [
                (weight * losses).sum(dtype=torch.float64),
                weight.sum(dtype=torch.float64),
                correct.double(),
                valid.sum().double(),
            ]
        )
    return sums.copy_(total), lse, targets


def backward(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
) -> Tensor:
    """Gradient of the logits from that of the sum of the losses."""
    grad_logits = empty_gradient(logits)
    for image, target in enumerate(targets):
        z = _resized(logits[image], target.shape, align_corners)
        slope = (z - lse[image]).exp_()
        valid = target >= 0
        index = target.long().clamp(min=0)
        slope.scatter_add_(0, index[None], slope.new_full((), -1).expand(1, *target.shape))
        weight = valid if class_weight is None else class_weight.to(slope.dtype)[index] * valid
        slope *= weight * grad
        size = logits.shape[2], logits.shape[3]
        grad_logits[image] = gradient(slope[None], size, align_corners)[0]
    return grad_logits
