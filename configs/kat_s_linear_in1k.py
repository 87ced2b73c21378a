# A linear probe on ImageNet-1k: what the frozen backbone knows of classes, by the recipe of DINO's
# linear evaluation (Caron et al. 2021): SGD, crops and flips, 100 epochs, total batch 1024.
_base_ = ['./kat_s_in1k.py']

# A backbone that learned without these labels: a name, a file or a URL (docs/checkpoints.md).
model = dict(
    backbone=dict(
        drop_path_rate=0.0,
        frozen_stages=12,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss')),
    train_cfg=None,
)
train_pipeline = [
    dict(type='SeedAugmentation'),
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=4e-3, momentum=0.9, weight_decay=0.0)
)
max_epochs = 100
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
custom_hooks = [dict(type='SeedIterationHook'), dict(type='AverageLossHook')]
