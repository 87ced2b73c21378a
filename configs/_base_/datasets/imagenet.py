dataset_type = 'ImageNet'
data_root = 'data/imagenet'
mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # RGB
# Images are BGR until the data preprocessor.
bgr_mean, bgr_std = mean[::-1], std[::-1]

# rand-m9-mstd0.5 of timm: its plain policies, where a higher level is not always a stronger change.
# (mmpretrain's `timm_increasing` is timm's rand-m9-mstd0.5-inc1.)
enhance = dict(magnitude_range=(-0.9, 0.9), random_negative_prob=0.0)
policies = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    dict(type='Rotate', magnitude_range=(0, 30)),
    # Bits to keep, 0 to 4. mmpretrain rounds them up and timm down.
    dict(type='Posterize', magnitude_range=(-0.999, 3.001)),
    dict(type='Solarize', magnitude_range=(0, 256)),
    dict(type='SolarizeAdd', magnitude_range=(0, 110)),
    dict(type='ColorTransform', **enhance),
    dict(type='Contrast', **enhance),
    dict(type='Brightness', **enhance),
    dict(type='Sharpness', **enhance),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='vertical'),
]
# timm draws between the two for each image, and again for each of the policies that move pixels.
interpolations = ('bilinear', 'bicubic')
moving = ('Rotate', 'Shear', 'Translate')
rand_augment = dict(
    type='RandAugment',
    policies=[
        dict(policy, interpolation=name) if policy['type'] in moving else policy
        for name in interpolations
        for policy in policies
    ],
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
    hparams=dict(pad_val=[round(value) for value in bgr_mean]),
)
train_pipeline = [
    dict(type='SeedAugmentation'),
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation=name)]
            for name in interpolations
        ],
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    rand_augment,
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    # 224 / 256 = 0.875
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='compact_collate'),
    sampler=dict(type='SeededSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='compact_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
