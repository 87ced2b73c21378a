# 31 epochs of ADE20K's 20,210 images.
_base_ = [
    './_base_/models/kat_eomt_semantic.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/eomt.py',
    './_base_/segmentation_runtime.py',
]

# A name, a file, a URL, or checkpoint=None for from scratch: docs/checkpoints.md
model = dict(backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')))

max_iters = 31 * 1264
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
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
