"""The largest resampled logit in plain PyTorch, one image after the other."""

import torch
from torch import Tensor

from .common.dtypes import wide


@torch.no_grad()
def forward(logits: Tensor, rows, columns) -> Tensor:
    """See ``resampled_argmax``."""
    labels = empty_labels(logits, rows, columns)
    for image, target in zip(logits, labels, strict=True):
        image = wide(image)
        down = rows.matrix(logits.shape[2]).to(image.dtype)
        across = columns.matrix(logits.shape[3]).to(image.dtype)
        target.copy_((down @ (image @ across.T)).argmax(dim=0))
    return labels


def empty_labels(logits: Tensor, rows, columns) -> Tensor:
    """(B, H, W), uninitialised."""
    shape = len(logits), len(rows.index), len(columns.index)
    return logits.new_empty(shape, dtype=torch.int64)
