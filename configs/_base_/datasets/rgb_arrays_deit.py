# The same for images in RGB, as mmpretrain's CIFAR gives them, and what augmentation fills in is
# in RGB too. Configs set data_preprocessor.to_rgb=False.
_base_ = './arrays_deit.py'

hparams = _base_.replaced.RandAugment.hparams
rgb = dict(
    RandAugment=dict(hparams=dict(hparams, pad_val=hparams.pad_val[::-1])),
    RandomErasing=dict(fill_color=_base_.mean, fill_std=_base_.std),
)
train_pipeline = [dict(step, **rgb.get(step['type'], {})) for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
