# Small enough for two CPU cores: drawn scenes in ImageNet's layout (tools/make_sample_data.py),
# with 10 of its classes, and patches of 8 pixels for small images.
_base_ = './kat_t_in1k.py'

classes = (
    'ram',
    'airliner',
    'balloon',
    'barn',
    'lighthouse',
    'school bus',
    'sports car',
    'umbrella',
    'yawl',
    'hay',
)
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict(img_size=64, patch_size=8, drop_path_rate=0.0),
    head=dict(num_classes=len(classes)),
    train_cfg=None,
)
train_pipeline = [
    dict(type='SeedAugmentation'),
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=72, edge='short'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]
data_root = 'data/sample/imagenet'
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

max_epochs = 30
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=2, end=max_epochs),
]
# An average over 10,000 iterations would hardly leave its start.
custom_hooks = [dict(type='SeedIterationHook'), dict(type='AverageLossHook')]
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=10, save_best=None))
