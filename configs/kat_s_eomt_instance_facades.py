# A data set of one's own with polygons, on one GPU: see _base_/datasets/facades.py.
_base_ = [
    './_base_/models/kat_eomt.py',
    './_base_/datasets/facades.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/eomt.py',
]

num_classes = 10
max_iters = 10_000
model = dict(
    data_preprocessor=dict(
        pad_seg=False,
        batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size, pad_mask=True)],
    ),
    panoptic_head=dict(
        num_things_classes=num_classes,
        num_stuff_classes=0,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=num_classes, num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=200),
)
param_scheduler = [dict(type='TwoWarmupsPolyLR', head_iters=250, backbone_iters=500, end=max_iters)]
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='MaskAnnealingHook',
        begin=[max_iters * twelfth // 12 for twelfth in (2, 5, 8)],
        end=[max_iters * twelfth // 12 for twelfth in (4, 7, 10)],
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000, max_keep_ckpts=1, save_best='segm/segm_mAP'))
auto_scale_lr = dict(base_batch_size=8)
