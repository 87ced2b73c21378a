"""EoMT: segmentation with the encoder alone (Kerssies et al., Your ViT is Secretly an Image
Segmentation Model, CVPR 2025), for instances and panoptic maps."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.models.detectors import MaskFormer
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat_mm.arguments import MOST_CHANNELS, MOST_LAYERS, check_int, check_number, check_rate
from kat_mm.layers import LayerNorm2d
from kat_mm.losses.mask2former import FastMask2FormerHead
from kat_mm.transfer import send


class PartlyEncoded(NamedTuple):
    """An image before the blocks that a head runs itself."""

    backbone: nn.Module
    """Whose last blocks are to be run."""
    tokens: Tensor
    """(B, N, C), the last H * W of them patches."""
    grid: tuple[int, int]
    """(H, W) in tokens."""
    size: tuple[int, int]
    """Of the image in pixels; the patches may reach beyond it at the right and the bottom."""


class WholeModel(NamedTuple):
    """Images before a model that is run whole, from the backbone through the head, in one call."""

    segment: Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]
    """From images to what :meth:`EoMTHead.forward` gives."""
    images: Tensor
    """(B, 3, H, W)."""


def encode_partly(backbone: nn.Module, images: Tensor, num_blocks: int) -> PartlyEncoded:
    """Images (B, 3, H, W) through all blocks but the last ``num_blocks``."""
    backbone = _unwrap(backbone)
    tokens, grid = backbone.embed(images)
    tokens = backbone.run_blocks(tokens, grid, 0, backbone.num_layers - num_blocks)
    return PartlyEncoded(backbone, tokens, grid, tuple(images.shape[2:]))


def _unwrap(backbone: nn.Module) -> nn.Module:
    """What runs blocks, which adapters may be wrapped around (mmpretrain's LoRAModel)."""
    return next((m for m in backbone.modules() if hasattr(type(m), 'run_blocks')), backbone)


class EoMTHead(FastMask2FormerHead):
    """Queries that go through the last blocks of the backbone; each predicts a class and a mask.

    The blocks are the backbone's own: they come with the features, and their weights stay where
    they are. Matching, sampled points and losses are those of mmdet's Mask2Former; with its own
    assigner and losses they are computed for all predictions and images of a batch at once.

    In training a prediction is made before each of these blocks and behind the last one, and each
    has a loss. A query is masked with the probability that :meth:`set_mask_rates` gave for the
    block, drawn for each image and query: it then looks at queries, class token and registers, and
    of the patches only at those where its mask so far is positive. At the rate 0, which is that of
    the start and of inference, attention is plain.

    Args:
        in_channels: Channels C of the backbone.
        num_things_classes: Classes of countable objects, which come first. Default: 80.
        num_stuff_classes: Classes of regions. Default: 53.
        num_queries: Segments that can be found in an image, 2 or more. Default: 200.
        num_blocks: Blocks that the queries go through, the last ones. Default: 3.
        patch_size: Side of the backbone's patches in pixels; masks have a stride of about 4.
            Default: 16.
        loss_cls, loss_mask, loss_dice: As of mmdet's ``Mask2FormerHead``.
        train_cfg: ``assigner``, ``sampler``, ``num_points``, ``oversample_ratio`` and
            ``importance_sample_ratio``, likewise.
        test_cfg: Of the fusion head.
        init_cfg: Initialisation.
    """

    gives_float32 = True  # there is nothing left for Float32BoxesHook, which graphs would stop at

    def __init__(
        self,
        in_channels: int,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        num_queries: int = 200,
        num_blocks: int = 3,
        patch_size: int = 16,
        loss_cls: dict | None = None,
        loss_mask: dict | None = None,
        loss_dice: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        # Not Mask2FormerHead's own, which builds two decoders.
        super(AnchorFreeHead, self).__init__(init_cfg=init_cfg)
        check_int('EoMTHead', 'in_channels', in_channels, 1, MOST_CHANNELS)
        check_int('EoMTHead', 'num_things_classes', num_things_classes, 0, MOST_CHANNELS)
        check_int('EoMTHead', 'num_stuff_classes', num_stuff_classes, 0, MOST_CHANNELS)
        check_int('EoMTHead', 'num_queries', num_queries, 2, MOST_CHANNELS)
        check_int('EoMTHead', 'num_blocks', num_blocks, 1, MOST_LAYERS)
        check_int('EoMTHead', 'patch_size', patch_size, 1, 1024)
        self.in_channels = in_channels
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.num_queries = num_queries
        self.num_blocks = num_blocks
        self.patch_size = patch_size
        self.query_feat = nn.Embedding(num_queries, in_channels)
        self.cls_embed = nn.Linear(in_channels, self.num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(in_channels, in_channels),
            nn.GELU(),
            nn.Linear(in_channels, in_channels),
            nn.GELU(),
            nn.Linear(in_channels, in_channels),
        )
        steps = max(0, round(math.log2(patch_size)) - 2)
        self.upscale = nn.Sequential(*(_Upscale(in_channels) for _ in range(steps)))
        # The hook that sets them knows them from the iteration; no checkpoint has to.
        self.register_buffer('mask_rates', torch.zeros(num_blocks), persistent=False)
        self.masked = (False,) * num_blocks
        self._build_losses(loss_cls, loss_mask, loss_dice, train_cfg)
        self.test_cfg = test_cfg

    def _build_losses(
        self, loss_cls: dict, loss_mask: dict, loss_dice: dict, train_cfg: dict | None
    ) -> None:
        """What Mask2FormerHead's methods read."""
        losses = dict(loss_cls=loss_cls, loss_mask=loss_mask, loss_dice=loss_dice)
        for name, loss in losses.items():
            if not isinstance(loss, dict):
                raise ValueError(
                    f'EoMTHead: {name}={loss!r} must be the config of a loss; '
                    '_base_/models/mask2former_loss.py has those of Mask2Former'
                )
        self.class_weight = loss_cls.get('class_weight') or ()
        if len(self.class_weight) != self.num_classes + 1:
            raise ValueError(
                f'EoMTHead: loss_cls.class_weight has {len(self.class_weight)} numbers; it must '
                f'have {self.num_classes + 1}, one for each class, and the last for no object'
            )
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_mask = MODELS.build(loss_mask)
        self.loss_dice = MODELS.build(loss_dice)
        self.train_cfg = train_cfg
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg['assigner'])
            self.sampler = TASK_UTILS.build(train_cfg['sampler'], default_args=dict(context=self))
            self.num_points = train_cfg.get('num_points', 12544)
            self.oversample_ratio = train_cfg.get('oversample_ratio', 3.0)
            self.importance_sample_ratio = train_cfg.get('importance_sample_ratio', 0.75)
            check_int('EoMTHead', 'num_points', self.num_points, least=1)
            check_rate('EoMTHead', 'importance_sample_ratio', self.importance_sample_ratio)
            check_number('EoMTHead', 'oversample_ratio', self.oversample_ratio)
            if self.oversample_ratio < 1:
                raise ValueError(
                    f'EoMTHead: oversample_ratio={self.oversample_ratio} must be 1 or more: so '
                    'many points are drawn for each that is kept'
                )

    def init_weights(self) -> None:
        """PyTorch's own, unless ``init_cfg`` says otherwise."""
        super(AnchorFreeHead, self).init_weights()

    def check_backbone(self, backbone: nn.Module) -> None:
        """Refuse a backbone that the head was not built for.

        Raises:
            ValueError: Its blocks, channels or patches differ, or it cannot run some blocks.
        """
        backbone = _unwrap(backbone)
        name = type(backbone).__name__
        if not hasattr(backbone, 'run_blocks'):
            raise ValueError(
                f"EoMT: backbone {name} has no run_blocks, through which queries go; use 'KAT'"
            )
        if self.num_blocks > backbone.num_layers:
            raise ValueError(
                f'EoMT: num_blocks={self.num_blocks} of the head, but backbone {name} has '
                f'{backbone.num_layers} blocks; give num_blocks from 1 to {backbone.num_layers}'
            )
        for argument, own, theirs in (
            ('in_channels', self.in_channels, backbone.embed_dims),
            ('patch_size', self.patch_size, backbone.patch_embed.patch_size),
        ):
            if own != theirs:
                raise ValueError(
                    f'EoMT: {argument}={own} of the head must be {theirs}, that of backbone {name}'
                )
        for index in range(backbone.num_layers - self.num_blocks, backbone.num_layers):
            attention = backbone.blocks[index].attn
            for argument in ('window_size', 'use_rel_pos'):
                if value := getattr(attention, argument, False):
                    raise ValueError(
                        f'EoMT: block {index} of backbone {name} has {argument}={value}; the last '
                        f'{self.num_blocks} blocks, through which queries go, must attend to all '
                        'tokens, without relative positions'
                    )

    def set_mask_rates(self, rates: Sequence[float]) -> None:
        """Set the probability, for each block, with which a query is masked in training."""
        if len(rates) != self.num_blocks:
            raise ValueError(
                f'EoMTHead: {len(rates)} rates of masking for num_blocks={self.num_blocks} blocks'
            )
        for index, rate in enumerate(rates):
            check_rate('EoMTHead', f'rate of masking of block {index}', rate)
        self.masked = tuple(rate > 0 for rate in rates)
        self.mask_rates.copy_(send(rates, torch.float32, self.mask_rates.device))

    def forward(
        self, x: PartlyEncoded | WholeModel, batch_data_samples: list | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of classes (B, queries, classes + 1) and masks (B, queries, H', W'), float32.

        In training one of each for each block's input, and the last; otherwise the last alone.
        """
        if isinstance(x, WholeModel):
            return self.predictions(x, batch_data_samples)
        if not isinstance(x, PartlyEncoded):
            raise ValueError(
                f'{type(self).__name__} runs blocks of the backbone itself; the model must be of '
                'type kat_mm.EoMT, or kat_mm.EoMTSegmentor in mmseg'
            )
        backbone, tokens, grid, size = x
        queries = self.query_feat.weight.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([queries, tokens], dim=1)
        start, stop = backbone.num_layers - self.num_blocks, backbone.num_layers
        predictions = []
        if self.training:
            for index in range(self.num_blocks):
                predictions.append(self._predict(backbone, tokens, grid))
                mask = None
                if self.masked[index]:
                    mask = self._attention_mask(predictions[-1][1], tokens, grid, index)
                block = start + index
                tokens = backbone.run_blocks(tokens, grid, block, block + 1, mask)
        else:
            tokens = backbone.run_blocks(tokens, grid, start, stop)
        predictions.append(self._predict(backbone, tokens, grid))
        # What lies beyond the image, where its size is no multiple of the patch, is cut off.
        # In whole numbers, which a file of any size can be exported with.
        cells = 2 ** len(self.upscale)
        height, width = (-(-side * cells // self.patch_size) for side in size)
        classes = [classes.float() for classes, _ in predictions]
        masks = [masks[..., :height, :width].float() for _, masks in predictions]
        return classes, masks

    def _predict(
        self, backbone: nn.Module, tokens: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        if backbone.with_cp and torch.is_grad_enabled():
            return checkpoint(self._decode, backbone.norm, tokens, grid, use_reentrant=False)
        return self._decode(backbone.norm, tokens, grid)

    def _decode(
        self, norm: nn.Module, tokens: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits of classes and masks of the queries among the tokens."""
        tokens = norm(tokens)
        queries = tokens[:, : self.num_queries]
        maps = tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        masks = torch.einsum('bqc,bchw->bqhw', self.mask_embed(queries), self.upscale(maps))
        return self.cls_embed(queries), masks

    @torch.no_grad()
    def _attention_mask(
        self, masks: Tensor, tokens: Tensor, grid: tuple[int, int], index: int
    ) -> Tensor:
        """(B, 1, queries, N): where each query may look."""
        seen = F.interpolate(masks, grid, mode='bilinear', align_corners=False).flatten(2) > 0
        free = torch.rand(*seen.shape[:2], 1, device=seen.device) >= self.mask_rates[index]
        others = seen.new_ones(*seen.shape[:2], tokens.shape[1] - seen.shape[2])
        return torch.cat([others, seen | free], dim=2)[:, None]

    def loss_by_feat(
        self,
        all_cls_scores: Sequence[Tensor],
        all_mask_preds: Sequence[Tensor],
        batch_gt_instances: list,
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """Mask2Former's loss of each prediction; arguments as there.

        Raises:
            ValueError: An image has more segments than there are queries.
        """
        for instances, meta in zip(batch_gt_instances, batch_img_metas, strict=True):
            if len(instances) > self.num_queries:
                raise ValueError(
                    f'image {meta.get("img_path", "")} has {len(instances)} segments, more than '
                    f'num_queries={self.num_queries} can find; set num_queries to the most that an '
                    'image has, or leave out the image'
                )
        if not self.train_cfg:
            raise ValueError(
                'EoMTHead: without train_cfg it can predict alone; for losses give the model '
                'train_cfg with assigner and sampler, as _base_/models/mask2former_loss.py has them'
            )
        return super().loss_by_feat(
            all_cls_scores, all_mask_preds, batch_gt_instances, batch_img_metas
        )

    def predictions(  # type: ignore[override]  # of what models with this head give
        self, x: PartlyEncoded | WholeModel, batch_data_samples: list
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What :meth:`forward` gives, by the model where there is one."""
        return x.segment(x.images) if isinstance(x, WholeModel) else self(x)


class _Upscale(nn.Sequential):
    """Twice the size: transposed convolution, GELU, depthwise convolution, layer norm."""

    def __init__(self, channels: int):
        super().__init__(
            nn.ConvTranspose2d(channels, channels, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            LayerNorm2d(channels),
        )


class HeadRunsBlocks:
    """In front of a model's class: its head runs the backbone's last blocks."""

    # Not the backbone's forward, which is never called.
    compiled_methods = ('extract_feat',)
    graphed_methods = ('segment',)
    head_name: str
    backbone: nn.Module

    @property
    def queries_head(self) -> EoMTHead:
        """The head, whose name is the library's."""
        return getattr(self, self.head_name)

    @property
    def graph_mode(self) -> tuple[bool, ...]:
        """Which blocks have masks."""
        return self.queries_head.masked

    def extract_feat(self, images: Tensor) -> PartlyEncoded:
        """Images (B, 3, H, W) to tokens before the blocks that the head runs."""
        return encode_partly(self.backbone, images, self.queries_head.num_blocks)

    def segment(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, 3, H, W) to the logits that the head gives."""
        return self.queries_head(self.extract_feat(images))


class EoMT(HeadRunsBlocks, MaskFormer):
    """Detector of a backbone and an :class:`EoMTHead`, which runs the backbone's last blocks.

    Args:
        backbone: Config of ``KAT``.
        panoptic_head: Config of :class:`EoMTHead`.
        panoptic_fusion_head: Config of mmdet's ``MaskFormerFusionHead``.
        train_cfg, test_cfg, data_preprocessor, init_cfg: As of mmdet's ``MaskFormer``.

    Raises:
        ValueError: Backbone and head do not fit.
    """

    compiled_parts = ('panoptic_head',)
    head_name = 'panoptic_head'

    def __init__(
        self,
        backbone: dict,
        panoptic_head: dict,
        panoptic_fusion_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(
            backbone=backbone,
            panoptic_head=panoptic_head,
            panoptic_fusion_head=panoptic_fusion_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.panoptic_head.check_backbone(self.backbone)
        self._check_fusion()

    def _check_fusion(self) -> None:
        """Refuse what would be wrong, or fail, at the first validation."""
        head, fusion = self.panoptic_head, self.panoptic_fusion_head
        for name in ('num_things_classes', 'num_stuff_classes'):
            own, theirs = getattr(fusion, name), getattr(head, name)
            if own != theirs:
                raise ValueError(
                    f'EoMT: panoptic_fusion_head.{name}={own} must be {theirs}, as of panoptic_head'
                )
        options = self.test_cfg or {}
        most = options.get('max_per_image', 100)
        pairs = head.num_queries * head.num_classes
        if options.get('instance_on', False) and most > pairs:
            raise ValueError(
                f'EoMT: test_cfg.max_per_image={most} must be at most {pairs}, the number of '
                f'queries, {head.num_queries}, times that of classes, {head.num_classes}'
            )

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Of the head, from one call of :meth:`segment`."""
        x = WholeModel(self.segment, batch_inputs)
        return self.panoptic_head.loss(x, batch_data_samples)
