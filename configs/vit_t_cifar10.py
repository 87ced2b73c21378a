_base_ = './kat_t_cifar10.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
