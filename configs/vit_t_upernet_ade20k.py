_base_ = './kat_t_upernet_ade20k.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP'), init_cfg=dict(checkpoint='deit_t_in1k')))
