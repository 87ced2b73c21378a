import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kat_mm.arguments import MOST_CHANNELS, check_int
from kat_mm.errors import UserError

from .init import trunc_normal_

_logger = logging.getLogger(__name__)


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel, as a matrix product: GPUs have faster kernels."""

    def __init__(self, in_channels: int, out_channels: int, patch_size: int):
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), multiples of the patch, to (B, out_channels, H', W')."""
        height, width = self.kernel_size
        patches = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Image to tokens: one linear map of each patch, as a strided convolution.

    Weights that were made for patches of another size are resized on loading.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels C of the tokens.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        check_int('PatchEmbed', 'patch_size', patch_size, 1, 1024)
        for name, value in (('in_channels', in_channels), ('embed_dims', embed_dims)):
            check_int('PatchEmbed', name, value, 1, MOST_CHANNELS)
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.proj = PatchConv2d(in_channels, embed_dims, patch_size)
        self.register_load_state_dict_pre_hook(_fit_loaded_patches)

    def init_weights(self) -> None:
        trunc_normal_(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, ceil(H / patch), ceil(W / patch), C)."""
        return self.proj(pad_image(x, self.in_channels, self.patch_size)).permute(0, 2, 3, 1)


def pad_image(x: Tensor, in_channels: int, patch_size: int) -> Tensor:
    """Zeros at the right and the bottom of (B, in_channels, H, W), up to whole patches.

    Raises:
        UserError: The image has another number of channels.
    """
    if x.dim() == 4 and x.shape[1] != in_channels:
        raise UserError(
            f'the image has {x.shape[1]} channels, and in_channels={in_channels} of the backbone. '
            "Images are loaded with three, by color_type='grayscale' of LoadImageFromFile with "
            "one, and by 'unchanged' as they are"
        )
    right, bottom = -x.shape[-1] % patch_size, -x.shape[-2] % patch_size
    return F.pad(x, (0, right, 0, bottom)) if right or bottom else x


# To torch.fx, which cannot see how a size decides, it is one step.
torch.fx.wrap('pad_image')


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
    pixels = torch.eye(height * width, device=weight.device).view(-1, 1, height, width)
    resized = F.interpolate(pixels, size=size, mode='bicubic', antialias=True)
    # Rows: the pixels of the old size. The product with a weight is B^T+ w.
    inverse = torch.linalg.pinv(resized.flatten(1).double())
    return (weight.flatten(2).double() @ inverse.T).unflatten(2, size).to(weight.dtype)


def _fit_loaded_patches(module: PatchEmbed, state_dict: dict, prefix: str, *_) -> None:
    key, own = f'{prefix}proj.weight', getattr(module.proj, 'weight', None)
    loaded = state_dict.get(key)
    if own is None or loaded is None or loaded.dim() != 4:
        return  # refused for its shape
    if loaded.shape[1] == 3 and own.shape[1] != 3:
        _logger.info('Patches of RGB images spread over %d channels', own.shape[1])
        state_dict[key] = loaded = spread_channels(loaded, own.shape[1])
    before, size = tuple(loaded.shape[2:]), tuple(own.shape[2:])
    if before != size and loaded.shape[:2] == own.shape[:2]:
        _logger.info('Patches resized from %s to %s', before, size)
        state_dict[key] = resize_patch_embed(loaded, size)


def spread_channels(weight: Tensor, in_channels: int) -> Tensor:
    """The weight of a patch embedding of RGB images, for images of other channels.

    One channel gets the sum: a grey image has the embedding of one that is grey in RGB. More get
    those of R, G and B in turn, times 3 / in_channels: where all channels are alike, the embedding
    is that of a grey image, about.

    Args:
        weight: (C, 3, H, W).
        in_channels: Channels of the image.

    Returns:
        (C, in_channels, H, W).
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = torch.arange(in_channels) % 3
    return weight[:, turns] * (3 / in_channels)
