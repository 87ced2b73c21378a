"""mmseg's head whose queries predict masks, without its waits for the GPU. It needs mmdet."""

from mmseg.models.decode_heads import Mask2FormerHead

from kat_mm.losses.label_maps import LabelMapLosses
from kat_mm.losses.mask2former import why_not_at_once


class FastSegMask2FormerHead(LabelMapLosses, Mask2FormerHead):
    """The same as its base; losses are those of all predictions and images at once."""


def use_mask_losses(head: Mask2FormerHead) -> str | None:
    """Let mmseg's Mask2Former compute so; or say why not."""
    if isinstance(head, LabelMapLosses):
        return None
    if type(head) is not Mask2FormerHead:
        return f'{type(head).__name__} is not known'
    if reasons := list(why_not_at_once(head)):
        return f'not as in Mask2Former: {", ".join(reasons)}'
    head.__class__ = FastSegMask2FormerHead
    return None
