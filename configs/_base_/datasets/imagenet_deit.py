# DeiT's augmentation, rand-m9-mstd0.5-inc1 of timm, in the place of KAT's rand-m9-mstd0.5.
_base_ = './imagenet.py'

train_pipeline = [
    dict(step, policies='timm_increasing') if step['type'] == 'RandAugment' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
