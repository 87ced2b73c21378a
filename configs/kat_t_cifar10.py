# KAT-T on CIFAR-10 from scratch, as an example of a folder of one's own: patches of 4 pixels for
# images of 32.
_base_ = [
    './_base_/models/kat_classifier.py',
    './_base_/datasets/cifar10.py',
    './_base_/classification_runtime.py',
    './_base_/schedules/in1k_300e.py',
]

num_classes = 10
model = dict(
    data_preprocessor=dict(
        mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], num_classes=num_classes
    ),
    backbone=dict(arch='tiny', img_size=32, patch_size=4),
    head=dict(in_channels=192, num_classes=num_classes),
)

max_epochs = 100
optim_wrapper = dict(
    dtype='bfloat16',
    clip_grad=dict(max_norm=1.0),
    # No decay on the coefficients of rational functions, unlike in the published scripts.
    paramwise_cfg=dict(_delete_=True),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=512)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=10))
