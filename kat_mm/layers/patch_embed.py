import torch
import torch.nn.functional as F
from torch import Tensor


def resize_patch_embed(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the weight of a patch embedding so that resized patches keep their embeddings.

    The pseudo-inverse resize of FlexiViT (Beyer et al., "FlexiViT: One Model for All Patch Sizes",
    2023, section 3.4): with B the bicubic resize of a patch x from the old to the new size, the
    result is the w' for which <x, w> and <B x, w'> agree best over all x. For larger patches they
    agree exactly.

    Args:
        weight: (C, in_channels, H, W).
        size: (H', W').

    Returns:
        (C, in_channels, H', W'), in the dtype of ``weight``.
    """
    height, width = weight.shape[-2:]
    pixels = torch.eye(height * width).view(-1, 1, height, width)
    resized = F.interpolate(pixels, size=size, mode='bicubic', antialias=True)
    # Rows: the pixels of the old size. The product with a weight is B^T+ w.
    inverse = torch.linalg.pinv(resized.flatten(1).double())
    return (weight.flatten(2).double() @ inverse.T).unflatten(2, size).to(weight.dtype)
