# 107 epochs of Cityscapes' 2,975 images, the iterations of UperNet's recipe an eighth.
_base_ = [
    './_base_/models/kat_eomt_semantic.py',
    './_base_/datasets/cityscapes.py',
    './_base_/schedules/eomt.py',
    './_base_/segmentation_runtime.py',
]

num_classes = 19
max_iters = 20_000
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(img_size=_base_.crop_size, init_cfg=dict(checkpoint='kat_s_in1k')),
    decode_head=dict(
        num_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])
    ),
    test_cfg=dict(crop_size=_base_.crop_size, stride=(341, 683)),
)
param_scheduler = [
    dict(type='TwoWarmupsPolyLR', head_iters=500, backbone_iters=1000, end=max_iters)
]
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='MaskAnnealingHook',
        begin=[max_iters * twelfth // 12 for twelfth in (2, 5, 8)],
        end=[max_iters * twelfth // 12 for twelfth in (4, 7, 10)],
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2000)
default_hooks = dict(checkpoint=dict(interval=2000))
