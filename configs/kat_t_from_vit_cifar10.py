# KAT-T from a ViT-T that was trained by vit_t_cifar10.py, whose function it starts with.
_base_ = './kat_t_cifar10.py'

model = dict(backbone=dict(ffn_cfg=dict(act_init=('identity', 'gelu'))))
load_from = 'work_dirs/vit_t_cifar10/epoch_100.pth'

max_epochs = 30
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
