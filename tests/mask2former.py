"""A small Mask2Former of mmdet, and points that do not depend on who draws them."""

import torch
from eomt_reference import TRAIN_CFG, head_cfg

_ATTENTION = dict(embed_dims=8, num_heads=2)
_FFN = dict(embed_dims=8, feedforward_channels=8)


def mask2former_cfg(things, stuff, in_channels=8, **kwargs):
    """Config of the head, of seven queries and two decoder layers."""
    return head_cfg(
        things + stuff,
        **dict(
            type='mmdet.Mask2FormerHead',
            in_channels=[in_channels] * 4,
            feat_channels=8,
            out_channels=8,
            num_things_classes=things,
            num_stuff_classes=stuff,
            num_queries=7,
            strides=[4, 8, 16, 32],
            pixel_decoder=dict(
                type='mmdet.MSDeformAttnPixelDecoder',
                num_outs=3,
                norm_cfg=dict(type='GN', num_groups=2),
                encoder=dict(
                    num_layers=1,
                    layer_cfg=dict(
                        self_attn_cfg=dict(**_ATTENTION, num_levels=3, num_points=1, dropout=0.0),
                        ffn_cfg=dict(**_FFN, ffn_drop=0.0),
                    ),
                ),
                positional_encoding=dict(num_feats=4),
            ),
            transformer_decoder=dict(
                num_layers=2,
                layer_cfg=dict(
                    self_attn_cfg=dict(**_ATTENTION, batch_first=True),
                    cross_attn_cfg=dict(**_ATTENTION, batch_first=True),
                    ffn_cfg=_FFN,
                ),
            ),
            positional_encoding=dict(num_feats=4),
            train_cfg=TRAIN_CFG,
            **kwargs,
        ),
    )


def rand_by_place(*size, device=None, **kwargs):
    """In place of ``torch.rand``: the same points for whoever draws as many, in any order."""
    shape = size[0] if isinstance(size[0], tuple) else size
    points = torch.empty(shape[-2:]).uniform_(generator=torch.Generator().manual_seed(shape[-2]))
    return points.expand(shape).clone()
