# DeiT's augmentation, in the place of KAT's rand-m9-mstd0.5: rand-m9-mstd0.5-inc1 of timm, and
# bicubic resizing alone.
_base_ = './imagenet.py'

replaced = dict(
    RandAugment=dict(
        _base_.rand_augment,
        policies='timm_increasing',
        hparams=dict(_base_.rand_augment.hparams, interpolation='bicubic'),
    ),
    RandomChoice=dict(
        type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'
    ),
)
train_pipeline = [replaced.get(step['type'], step) for step in _base_.train_pipeline]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
