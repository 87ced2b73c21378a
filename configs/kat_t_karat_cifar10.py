# Both ideas in one model: GR-KAN feed-forward and learnable attention.
_base_ = './vit_t_karat_cifar10.py'

model = dict(backbone=dict(ffn_cfg=dict(type='GRKAN')))
