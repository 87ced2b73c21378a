# CIFAR as in table 5 of KArAt's paper, version 3; vit_t_karat_cifar10.py follows the command lines.
_base_ = './vit_t_karat_cifar10.py'

changes = dict(
    RandomResizedCrop=dict(crop_ratio_range=(0.08, 1.0), aspect_ratio_range=(0.67, 1.5)),
    # rand-m15-n2-mstd1.0-inc1 of timm. Both libraries clip the level to 10.
    RandAugment=dict(magnitude_level=15, magnitude_std=1.0),
    # 224 / 249 = 0.9
    ResizeEdge=dict(scale=249),
)
train_pipeline = [dict(step, **changes.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **changes.get(step['type'], {})) for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

lr = 5e-4 * 32 / 512
optim_wrapper = dict(optimizer=dict(lr=lr, eps=1e-6), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6 / lr),
    _base_.param_scheduler[1],
]
auto_scale_lr = dict(base_batch_size=32)
# The average of the weights is what is evaluated, and what a checkpoint holds as its state dict.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=8e-5, priority='ABOVE_NORMAL'),
]
