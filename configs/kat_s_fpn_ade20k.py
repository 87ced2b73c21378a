# Semantic FPN (Kirillov et al., CVPR 2019) as of mmseg.
_base_ = [
    './_base_/models/kat_pyramid_seg.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    decode_head=dict(
        type='FPNHead',
        in_channels=[_base_.embed_dims] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
