"""EoMT for label maps, in mmseg's terms."""

from typing import Any

import torch
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import Mask2FormerHead
from torch import Tensor

from .eomt import EoMTHead, PartlyEncoded, WholeModel, encode_partly
from .objects import Regions, by_image


class EoMTSemanticHead(EoMTHead, Mask2FormerHead):
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

    def loss(  # type: ignore[override]  # mmseg's, where mmdet's has no train_cfg
        self, x: PartlyEncoded | WholeModel, batch_data_samples: list, train_cfg: dict
    ) -> dict[str, Tensor]:
        """Losses of data samples with a label map, ``gt_sem_seg``.

        Raises:
            ValueError: A map has a label that is no class and not ``ignore_index``, or more classes
                than there are queries.
        """
        maps = torch.cat([sample.gt_sem_seg.data for sample in batch_data_samples])
        regions = Regions(maps, 0, self.num_classes - 1, self.ignore_index)
        classes, masks = self.predictions(x)
        metas = [sample.metainfo for sample in batch_data_samples]
        for image in regions.images_with_others():
            raise ValueError(
                f'the label map of image {metas[image].get("img_path", "")} has a label that is '
                f'neither one of num_classes={self.num_classes} classes, 0 to '
                f'{self.num_classes - 1}, nor ignore_index={self.ignore_index}'
            )
        return self.loss_by_feat(classes, masks, by_image(*regions.found(), len(maps)), metas)


class EoMTSegmentor(EncoderDecoder):
    """Segmentor of a backbone and an :class:`EoMTSemanticHead`, which runs its last blocks.

    Args:
        backbone: Config of ``KAT``.
        decode_head: Config of :class:`EoMTSemanticHead`.
        train_cfg, test_cfg, data_preprocessor, init_cfg: As of mmseg's ``EncoderDecoder``.

    Raises:
        ValueError: Backbone and head do not fit.
    """

    # Not the backbone's forward, which is never called; the head is compiled anyway.
    compiled_methods = ('extract_feat',)
    graphed_methods = ('segment',)

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

    def extract_feat(self, inputs: Tensor) -> PartlyEncoded:
        """Images (B, 3, H, W) to tokens before the blocks that the head runs."""
        return encode_partly(self.backbone, inputs, self.decode_head.num_blocks)

    def segment(self, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, 3, H, W) to the logits that the head gives."""
        return self.decode_head(self.extract_feat(inputs))

    @property
    def graph_mode(self) -> tuple[bool, ...]:
        """Which blocks have masks."""
        return self.decode_head.masked

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Of mmseg, from one call of :meth:`segment`."""
        return self._decode_head_forward_train(WholeModel(self.segment, inputs), data_samples)
