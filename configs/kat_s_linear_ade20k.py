# A linear probe: what the last map of the frozen backbone knows of classes.
_base_ = [
    './_base_/models/kat_pyramid_seg.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    backbone=dict(out_indices=11, frozen_stages=12, init_cfg=dict(checkpoint='kat_s_in1k')),
    neck=None,
    decode_head=dict(
        type='FCNHead',
        in_channels=_base_.embed_dims,
        channels=_base_.embed_dims,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
