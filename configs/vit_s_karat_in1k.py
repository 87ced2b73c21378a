_base_ = './vit_t_karat_in1k.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
