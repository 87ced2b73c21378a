"""EoMT for label maps, in mmseg's terms."""

from typing import Any

from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import Mask2FormerHead
from torch import Tensor

from kat_mm.losses.label_maps import LabelMapLosses

from .eomt import EoMTHead, HeadRunsBlocks, WholeModel


class EoMTSemanticHead(LabelMapLosses, EoMTHead, Mask2FormerHead):
    """:class:`EoMTHead` whose targets are the classes of a label map, as of mmseg's Mask2Former.

    Args:
        in_channels: Channels C of the backbone.
        num_classes: Classes. Default: 150.
        num_queries: Default: 100.
        align_corners: Of resized predictions. Default: False.
        ignore_index: Label that counts for nothing. Default: 255.
        kwargs: As of :class:`EoMTHead`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 150,
        num_queries: int = 100,
        align_corners: bool = False,
        ignore_index: int = 255,
        **kwargs: Any,
    ):
        super().__init__(in_channels, num_classes, 0, num_queries, **kwargs)
        self.align_corners = align_corners
        self.ignore_index = ignore_index
        self.out_channels = num_classes


class EoMTSegmentor(HeadRunsBlocks, EncoderDecoder):
    """Segmentor of a backbone and an :class:`EoMTSemanticHead`, which runs its last blocks.

    Args:
        backbone: Config of ``KAT``.
        decode_head: Config of :class:`EoMTSemanticHead`.
        train_cfg, test_cfg, data_preprocessor, init_cfg: As of mmseg's ``EncoderDecoder``.

    Raises:
        ValueError: Backbone and head do not fit.
    """

    head_name = 'decode_head'

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(
            backbone,
            decode_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.decode_head.check_backbone(self.backbone)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Of mmseg, from one call of :meth:`segment`."""
        return self._decode_head_forward_train(WholeModel(self.segment, inputs), data_samples)
