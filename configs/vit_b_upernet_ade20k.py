_base_ = './kat_b_upernet_ade20k.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
