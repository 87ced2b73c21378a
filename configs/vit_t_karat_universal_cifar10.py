_base_ = './vit_t_karat_cifar10.py'

model = dict(backbone=dict(attn_cfg=dict(mode='universal')))
