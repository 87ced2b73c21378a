# Small enough for two CPU cores: drawn scenes in ADE20K's layout (tools/make_sample_data.py),
# 12 of its classes, patches of 8 pixels for small images, and a slim head.
_base_ = './kat_t_upernet_ade20k.py'

classes = (
    'sky',
    'building',
    'tree',
    'grass',
    'road',
    'water',
    'mountain',
    'sidewalk',
    'car',
    'boat',
    'person',
    'animal',
)
crop_size = (128, 128)
# Small batches, and the same result with any number of processes.
norm_cfg = dict(type='GN', num_groups=16, _delete_=True)
# No dropout: random numbers come by process.
head = dict(channels=64, dropout_ratio=0.0, num_classes=len(classes), norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        img_size=crop_size, patch_size=8, drop_path_rate=0.0, init_cfg=dict(checkpoint=None)
    ),
    neck=dict(rescales=[2, 1, 0.5, 0.25], norm_cfg=norm_cfg),
    decode_head=head,
    auxiliary_head=head,
    test_cfg=dict(mode='whole', _delete_=True),
)

train_pipeline = [
    dict(type='SeedAugmentation'),
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=len(classes)),
    dict(type='RandomResize', scale=(256, 192), ratio_range=(0.6, 1.2), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 192), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=len(classes)),
    dict(type='PackSegInputs'),
]
# The scales of ADE20K do not fit small images: mirrored ones.
tta_pipeline = None

data_root = 'data/sample/ade/ADEChallengeData2016'
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
max_iters = 160
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=20, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_iters // 2, save_best=None)
)
