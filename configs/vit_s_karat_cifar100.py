_base_ = './vit_t_karat_cifar100.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
