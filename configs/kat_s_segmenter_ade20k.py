# Segmenter (Strudel et al., ICCV 2021) as of mmseg, on the last map.
_base_ = [
    './_base_/models/kat_pyramid_seg.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    backbone=dict(out_indices=11, init_cfg=dict(checkpoint='kat_s_in1k')),
    neck=None,
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_channels=_base_.embed_dims,
        channels=_base_.embed_dims,
        num_classes=150,
        num_layers=2,
        num_heads=6,
        embed_dims=_base_.embed_dims,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
