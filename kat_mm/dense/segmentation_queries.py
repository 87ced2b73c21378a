"""mmseg's head whose queries predict masks, without its waits for the GPU. It needs mmdet."""

from mmseg.models.decode_heads import Mask2FormerHead
from torch import nn

from kat_mm.heads.label_map_losses import LabelMapLosses
from kat_mm.heads.mask2former import why_not_at_once


class FastSegMask2FormerHead(LabelMapLosses, Mask2FormerHead):
    """The same as its base; losses are those of all predictions and images at once."""


def use_mask_losses(head: nn.Module) -> bool:
    """Let a head compute so, if it is mmseg's Mask2Former with losses of its paper."""
    if type(head) is Mask2FormerHead and head.train_cfg and not any(why_not_at_once(head)):
        head.__class__ = FastSegMask2FormerHead
    return isinstance(head, FastSegMask2FormerHead)
